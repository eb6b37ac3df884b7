// hostkv_hpp.cpp: every promise of hostkv.hpp, against a running daemon (HOSTKV_SOCKET).
//
// scripts/test-cpp-header.sh compiles it with both compilers as C++17, 20 and 23, with and without exceptions,
// runs it each time, and compares the functions that it calls with those that the library has. `value`, DONE and FAULT_OF are all that differs between the two modes.

#include "hostkv.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(HOSTKV_NO_EXCEPTIONS)
template <class T>
T value(hostkv::Result<T> &&result) {
    if (!result) {
        std::fprintf(stderr, "unexpected fault: %s (%s)\n", result.message().c_str(), hostkv::status_name(result.status()));
        std::exit(1);
    }
    return *std::move(result);
}
// For calls without a value.
#define DONE(expression) check(bool(expression), #expression, __LINE__)
// The status that `expression` fails with.
#define FAULT_OF(expression) ((expression).status())
#else
template <class T>
T value(T &&result) {
    return std::forward<T>(result);
}
template <class Call>
hostkv::Status fault_of(Call call) {
    try {
        static_cast<void>(call());
    } catch (const hostkv::Error &error) {
        const std::system_error &base = error;
        if (base.code() != error.status() || std::strlen(error.what()) == 0) return hostkv::Status::internal;
        return error.status();
    }
    return hostkv::Status::ok;
}
#define DONE(expression) (expression)
#define FAULT_OF(expression) fault_of([&]() { return (expression); })
#endif

namespace {

int check_count = 0;

void check(bool is_true, const char *promise, int line) {
    check_count += 1;
    if (is_true) return;
    std::fprintf(stderr, "hostkv_hpp.cpp:%d: not so: %s (last error: %s)\n", line, promise, hostkv::last_error());
    std::exit(1);
}
#define CHECK(promise) check((promise), #promise, __LINE__)

template <class T>
constexpr bool is_move_only = std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T> &&
                              !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;
static_assert(is_move_only<hostkv::Session> && is_move_only<hostkv::Keyspace>);
static_assert(is_move_only<hostkv::Reservation> && is_move_only<hostkv::Lease> && is_move_only<hostkv::Prefetch>);
static_assert(std::is_error_code_enum_v<hostkv::Status>);
#if !defined(HOSTKV_NO_EXCEPTIONS)
static_assert(std::is_base_of_v<std::system_error, hostkv::Error>);
#endif
#if defined(__cpp_lib_span)
static_assert(std::is_convertible_v<hostkv::ReadSpan, std::span<const std::byte>>);
static_assert(std::is_convertible_v<hostkv::WriteSpan, std::span<std::byte>>);
static_assert(!std::is_convertible_v<hostkv::ReadSpan, std::span<std::byte>>);
#endif
static_assert(std::is_convertible_v<hostkv::WriteSpan, hostkv::ReadSpan>);
static_assert(!std::is_convertible_v<hostkv::ReadSpan, hostkv::WriteSpan>);
#if defined(__cpp_lib_span)
static_assert(std::is_convertible_v<hostkv::WriteSpan, std::span<const std::byte>>);
#endif
#if defined(__cpp_lib_ranges)
template <class Owner, class Item>
constexpr bool is_range_of = std::ranges::random_access_range<const Owner> && std::ranges::sized_range<const Owner> &&
                             std::ranges::common_range<const Owner> &&
                             std::same_as<std::ranges::range_value_t<const Owner>, Item>;
static_assert(is_range_of<hostkv::Lease, hostkv::LeaseItem>);
static_assert(is_range_of<hostkv::Reservation, hostkv::ReserveItem>);
static_assert(std::ranges::contiguous_range<hostkv::ReadSpan> && std::ranges::contiguous_range<hostkv::WriteSpan>);
static_assert(std::ranges::borrowed_range<hostkv::ReadSpan> && std::ranges::view<hostkv::ReadSpan>);
static_assert(std::ranges::output_range<hostkv::WriteSpan, std::byte>);
static_assert(!std::ranges::output_range<hostkv::ReadSpan, std::byte>);
#endif

constexpr std::uint64_t object_bytes = 20000;

void keys_come_from_tokens_and_bytes() {
    const std::vector<std::uint32_t> tokens(1000, 7);
    const std::vector<hostkv::Key> keys = value(hostkv::chunk_keys(tokens, 256));
    CHECK(keys.size() == 3);
    CHECK(std::memcmp(keys[0].chunk_hash, keys[1].chunk_hash, sizeof keys[0].chunk_hash) != 0);
    CHECK(value(hostkv::chunk_keys({1, 2, 3, 4}, 2)).size() == 2);
    const std::array<std::uint32_t, 3> few{{1, 2, 3}};
    CHECK(value(hostkv::chunk_keys(few, 256)).empty());
    CHECK(value(hostkv::chunk_keys({}, 256)).empty());
    CHECK(FAULT_OF(hostkv::chunk_keys(tokens, 0)) == hostkv::Status::invalid_argument);
    CHECK(value(hostkv::key_from_bytes("abc")).chunk_hash_len == 3);
    CHECK(value(hostkv::key_from_bytes(std::string(100, 'x'))).chunk_hash_len == 32);
    CHECK(FAULT_OF(hostkv::key_from_bytes("")) == hostkv::Status::invalid_argument);
}

void names_and_codes_agree() {
    CHECK(std::strcmp(hostkv::status_name(hostkv::Status::no_space), "NO_SPACE") == 0);
    const std::error_code code = hostkv::Status::not_found;
    CHECK(code == hostkv::Status::not_found && code != hostkv::Status::exists);
    CHECK(std::strcmp(code.category().name(), "hostkv") == 0 && code.message() == "NOT_FOUND");
    CHECK(hostkv::version()[0] != '\0');
}

void no_daemon_is_disconnected() {
    hostkv::SessionOptions nowhere;
    nowhere.socket_path = "/nonexistent/hostkv.sock";
    CHECK(FAULT_OF(hostkv::Session::open(nowhere)) == hostkv::Status::disconnected);
}

// Fills what was granted with a byte per item and says how many items that were.
std::size_t fill(const hostkv::Reservation &reservation) {
    std::size_t index = 0, filled = 0;
    for (const hostkv::ReserveItem &item : reservation) {
        if (item) {
            std::memset(item.span.data(), static_cast<int>('a' + index), item.span.size());
            filled += 1;
        }
        index += 1;
    }
    return filled;
}

// The two leading keys of these are in the pool.
void prefetch(const hostkv::Keyspace &keyspace, const std::vector<hostkv::Key> &keys) {
    hostkv::Prefetch started = value(keyspace.prefetch(keys));
    hostkv::Prefetch moved = std::move(started);
    CHECK(moved && !started);
    const std::optional<std::size_t> prefix_count = value(moved.wait(5000));
    CHECK(prefix_count && *prefix_count == 2);
    CHECK(*value(moved.wait(0)) == 2);
    DONE(moved.end());
    CHECK(!moved);
    CHECK(FAULT_OF(moved.wait(0)) == hostkv::Status::invalid_argument);
    CHECK(FAULT_OF(keyspace.prefetch(std::vector<hostkv::Key>())) == hostkv::Status::invalid_argument);
    // Let go without a wait.
    static_cast<void>(value(keyspace.prefetch(keys)));
}

void write_then_read(const hostkv::Session &session, const hostkv::Keyspace &keyspace) {
    const std::vector<hostkv::Key> keys = value(hostkv::chunk_keys(std::vector<std::uint32_t>(1024, 9), 256));
    static_cast<void>(value(keyspace.remove(keys)));

    // A reservation that is let go leaves nothing.
    {
        const hostkv::Reservation dropped = value(keyspace.reserve({{keys[0], object_bytes}}));
        CHECK(dropped && dropped.size() == 1 && dropped[0].span.size() == object_bytes);
        CHECK(dropped[1].status == hostkv::Status::invalid_argument);
        CHECK(value(keyspace.reserve({{keys[0], object_bytes}}))[0].status == hostkv::Status::reserved);
    }
    CHECK(value(keyspace.lookup(keys)) == 0);
    hostkv::Reservation aborted = value(keyspace.reserve({{keys[0], object_bytes}}));
    DONE(aborted.abort());
    CHECK(!aborted && aborted.empty());
    CHECK(FAULT_OF(keyspace.reserve({{keys[0], 0}})) == hostkv::Status::invalid_argument);

    // Two of four keys, moved before the commit.
    hostkv::Request request;
    request.request_id = "hostkv-hpp";
    request.device = "cpu";
    hostkv::Reservation first = value(keyspace.reserve({{keys[0], object_bytes}, {keys[1], object_bytes}}, request));
    CHECK(fill(first) == 2);
    hostkv::Reservation moved = std::move(first);
    CHECK(moved.size() == 2);
    DONE(moved.commit());
    CHECK(!moved);

    prefetch(keyspace, keys);
    std::vector<std::uint8_t> present(keys.size(), 9);
    CHECK(value(keyspace.lookup(keys, present.data())) == 2);
    CHECK((present == std::vector<std::uint8_t>{1, 1, 0, 0}));

    hostkv::Lease lease = value(keyspace.acquire(keys, request));
    CHECK(lease && lease.size() == keys.size() && lease.prefix_count() == 2);
    std::size_t index = 0;
    for (const hostkv::LeaseItem &item : lease) {
        CHECK(item.status == (index < 2 ? hostkv::Status::ok : hostkv::Status::not_found));
        if (item) {
            CHECK(item.span.size() == object_bytes);
            CHECK(item.span.data()[object_bytes - 1] == static_cast<std::byte>('a' + index));
#if defined(__cpp_lib_span)
            const std::span<const std::byte> bytes = item.span;
            CHECK(bytes.data() == item.span.data() && bytes.size() == item.span.size());
#endif
        }
        index += 1;
    }
    CHECK(index == keys.size());
    CHECK(lease[keys.size()].status == hostkv::Status::invalid_argument);
    CHECK(value(lease.check()));
    hostkv::Lease held = std::move(lease);
    CHECK(value(held.release()));
    CHECK(!held && held.empty() && held.begin() == held.end());

    // Commit and read on: the committed ones and the one that was there.
    hostkv::Reservation both = value(keyspace.reserve({{keys[1], object_bytes}, {keys[3], object_bytes}}));
    CHECK(both[0].status == hostkv::Status::exists && fill(both) == 1);
    hostkv::Lease mixed = value(both.commit_and_acquire());
    CHECK(mixed.size() == 2 && mixed.prefix_count() == 2);
    CHECK(mixed[0].span.data()[0] == std::byte{'b'} && mixed[1].span.data()[0] == std::byte{'b'});
    CHECK(value(mixed.release()));

    // Commit and go on with the next: its items are there, and so is what was committed.
    const hostkv::Key now = value(hostkv::key_from_bytes("now")), then = value(hostkv::key_from_bytes("then"));
    static_cast<void>(value(keyspace.remove({now, then})));
    hostkv::Reservation batch = value(keyspace.reserve({{now, object_bytes}}));
    CHECK(fill(batch) == 1);
    hostkv::Reservation next = value(batch.commit_and_reserve(keyspace, {{now, object_bytes}, {then, object_bytes}}));
    CHECK(!batch && next.size() == 2 && next[0].status == hostkv::Status::exists && bool(next[1]));
    CHECK(FAULT_OF(next.commit_and_reserve(keyspace, {{then, 0}})) == hostkv::Status::invalid_argument && !next);
    CHECK(value(keyspace.lookup({now})) == 1 && value(keyspace.lookup({then})) == 0);

    // The same without waiting: the answer is there when it is asked for.
    static_cast<void>(value(keyspace.remove({now})));
    hostkv::Request no_wait;
    no_wait.flags = HOSTKV_RESERVE_NO_WAIT;
    batch = value(keyspace.reserve({{now, object_bytes}}, no_wait));
    CHECK(batch[0].status == hostkv::Status::invalid_argument);
    while (!value(batch.wait(1000))) {}
    CHECK(fill(batch) == 1);
    next = value(batch.commit_and_reserve(keyspace, {{then, object_bytes}}, no_wait));
    while (!value(next.wait(1000))) {}
    CHECK(bool(next[0]) && value(keyspace.lookup({now})) == 1);
    DONE(next.abort());

    // Key 2 is missing: a prefix stops there, all present ones do not.
    CHECK(value(keyspace.acquire(keys)).prefix_count() == 2);
    hostkv::Request all;
    all.flags = HOSTKV_ACQUIRE_ALL;
    const hostkv::Lease gaps = value(keyspace.acquire(keys, all));
    CHECK(gaps.prefix_count() == 2 && !gaps[2] && gaps[3]);

    // A removed object stays readable under its lease.
    CHECK((value(keyspace.remove(keys)) == std::vector<bool>{true, true, false, true}));
    CHECK(value(keyspace.lookup(keys)) == 0 && gaps[3].span.data()[0] == std::byte{'b'});
    static_cast<void>(session);
}

// Everything that takes a range takes a lease, a reservation or a span.
void leases_and_spans_are_ranges(const hostkv::Keyspace &keyspace) {
    const std::vector<hostkv::Key> keys = value(hostkv::chunk_keys(std::vector<std::uint32_t>(1024, 3), 256));
    static_cast<void>(value(keyspace.remove(keys)));
    std::vector<hostkv_reserve_item> items;
    for (const hostkv::Key &key : keys) items.push_back({key, object_bytes});
    items.pop_back();
    hostkv::Reservation reservation = value(keyspace.reserve(items));
    CHECK(std::all_of(reservation.begin(), reservation.end(), [](const hostkv::ReserveItem &item) { return bool(item); }));
    for (const hostkv::ReserveItem &item : reservation) std::fill(item.span.begin(), item.span.end(), std::byte{7});
    reservation.begin()->span[1] = std::byte{8};
    DONE(reservation.commit());

    const hostkv::Lease lease = value(keyspace.acquire(keys));
    const hostkv::Lease::iterator begin = lease.begin(), end = lease.end();
    hostkv::Lease::iterator at = begin;
    CHECK(end - begin == 4 && begin < end && end > begin && begin <= at && at >= begin && begin != end);
    CHECK((at++)->span.data() == lease[0].span.data() && at->span.data() == lease[1].span.data());
    CHECK((--at) == begin && (at += 3) - begin == 3 && (at--) - begin == 3 && (at -= 1) == 1 + begin);
    CHECK((++at) == end - 2 && begin[2].span.data() == (*at).span.data() && (2 + begin) == at);
    CHECK(std::find_if(begin, end, [](const hostkv::LeaseItem &item) { return !item; }) - begin == 3);
    CHECK(std::distance(begin, end) == 4 && !(end - 1)->span.size() && (end - 1)->span.empty());
    const hostkv::ReadSpan span = lease[0].span;
    CHECK(std::count(span.begin(), span.end(), std::byte{7}) == static_cast<std::ptrdiff_t>(object_bytes) - 1);
    CHECK(span[1] == std::byte{8} && span.end() - span.begin() == static_cast<std::ptrdiff_t>(span.size()));
    const hostkv::ReadSpan of_written = hostkv::WriteSpan();
    CHECK(of_written.empty() && of_written.data() == nullptr);
#if defined(__cpp_lib_ranges)
    CHECK(std::ranges::size(lease) == 4 && std::ranges::distance(lease) == 4);
    CHECK(std::ranges::count_if(lease, [](const hostkv::LeaseItem &item) { return bool(item); }) == 3);
    CHECK(std::ranges::find(lease, hostkv::Status::not_found, &hostkv::LeaseItem::status) - lease.begin() == 3);
    CHECK(std::ranges::count(span, std::byte{8}) == 1);
    const std::span bytes{span};
    static_assert(std::is_same_v<decltype(bytes), const std::span<const std::byte>>);
    CHECK(bytes.data() == span.data() && bytes.first(2)[1] == std::byte{8});
#endif
// clang cannot compile the views of libstdc++ before version 16.
#if defined(__cpp_lib_ranges) && (!defined(__clang__) || __clang_major__ >= 16)
    std::size_t read = 0;
    const auto is_ok = [](const hostkv::LeaseItem &item) { return bool(item); };
    for (const hostkv::LeaseItem &item : lease | std::views::take_while(is_ok) | std::views::drop(1)) read += item.span.size();
    CHECK(read == 2 * object_bytes);
#endif
    static_cast<void>(value(keyspace.remove(keys)));
}

// C functions and values of this header work on the same things.
void handles_are_those_of_c(const hostkv::Session &session, const hostkv::Keyspace &keyspace) {
    const hostkv::Key key = value(hostkv::key_from_bytes("of C", 4));
    hostkv_lease *taken = nullptr;
    CHECK(hostkv_session_acquire(session.get(), keyspace.number(), &key, 1, nullptr, &taken) == HOSTKV_STATUS_OK);
    hostkv::Lease lease(taken);
    CHECK(lease && lease.get() == taken && lease.prefix_count() == 0 && lease.size() == 1);
    const hostkv::Keyspace same(session.get(), keyspace.number());
    CHECK(value(same.lookup({key})) == 0);
    const hostkv::Reservation reservation = value(same.reserve({{key, 1}}));
    CHECK(hostkv_reservation_get_count(reservation.get()) == 1);
    hostkv::Request request;
    request.flags = HOSTKV_ACQUIRE_ALL;
    request.request_id = "r";
    request.device = "d";
    const hostkv_request of_c = request.c_struct();
    CHECK(of_c.struct_size == sizeof of_c && of_c.flags == HOSTKV_ACQUIRE_ALL);
    CHECK(of_c.request_id == request.request_id && of_c.device == request.device);
    // Values that hold nothing answer, and do not crash.
    hostkv::Lease none;
    hostkv::Reservation nothing;
    hostkv::Session nowhere;
    CHECK(none.get() == nullptr && none[0].status == hostkv::Status::invalid_argument && none.prefix_count() == 0);
    CHECK(FAULT_OF(none.check()) == hostkv::Status::invalid_argument && nothing.get() == nullptr);
    CHECK(nowhere.fd() == -1 && FAULT_OF(nowhere.stats()) == hostkv::Status::invalid_argument);
    CHECK(FAULT_OF(nowhere.mapping(HOSTKV_MAPPING_READ)) == hostkv::Status::invalid_argument);
    CHECK(FAULT_OF(nowhere.clear()) == hostkv::Status::invalid_argument);
    CHECK(FAULT_OF(nowhere.flush()) == hostkv::Status::invalid_argument);
    CHECK(FAULT_OF(nowhere.open_keyspace({"m", "", 0, 0})) == hostkv::Status::invalid_argument);
    // The library takes a null handle for one that has ended already.
    CHECK(!value(nothing.commit_and_acquire()));
    CHECK(FAULT_OF(nothing.commit_and_reserve({}, {{hostkv::Key{}, 1}})) == hostkv::Status::invalid_argument);
    DONE(nowhere.close());
    DONE(nothing.abort());
    CHECK(value(none.release()));
}

void a_fault_carries_the_sentence_of_the_library() {
    hostkv::SessionOptions options;
    options.socket_path = "/nonexistent/hostkv.sock";
#if defined(HOSTKV_NO_EXCEPTIONS)
    const hostkv::Result<hostkv::Session> failed = hostkv::Session::open(options);
    CHECK(!failed && failed.code() == hostkv::Status::disconnected);
    CHECK(failed.message().find(options.socket_path) != std::string::npos && failed.message() == hostkv::last_error());
    const hostkv::Result<hostkv::Key> key = hostkv::key_from_bytes("k");
    CHECK(key && !key.code() && key.message().empty() && key->chunk_hash_len == 1 && (*key).kv_rank == 0);
    const hostkv::Result<void> done;
    CHECK(done && done.status() == hostkv::Status::ok && !done.code() && done.message().empty());
#else
    try {
        static_cast<void>(hostkv::Session::open(options));
        check(false, "an exception is thrown", __LINE__);
    } catch (const hostkv::Error &error) {
        const std::string said = error.what();
        CHECK(error.code() == hostkv::Status::disconnected && error.status() == hostkv::Status::disconnected);
        CHECK(said.find(options.socket_path) != std::string::npos && said.find(hostkv::last_error()) == 0);
    }
#endif
}

void session_tells_about_itself(const hostkv::Session &session, const hostkv::Keyspace &keyspace) {
    const hostkv_session_info info = value(session.info());
    CHECK(info.abi_version == hostkv::abi_version() && info.max_batch_keys >= 1);
    CHECK(value(session.stats()).capacity_bytes == info.capacity_bytes);
    CHECK(value(session.mapping(HOSTKV_MAPPING_READ)).size() >= info.capacity_bytes);
    CHECK(session.fd() >= 0);

    const hostkv::Key key = value(hostkv::key_from_bytes("to be cleared"));
    hostkv::Reservation reservation = value(keyspace.reserve({{key, object_bytes}}));
    const hostkv::ReserveItem item = reservation[0];
    CHECK(bool(item));
    const std::vector<char> source(object_bytes, 'z');
    hostkv::copy(item.span.data(), source.data(), source.size());
    DONE(reservation.commit());
    CHECK(value(session.clear()) >= 1);
    CHECK(value(keyspace.lookup({key})) == 0);
}

void a_flush_waits_for_what_was_committed_without_a_round_trip() {
    hostkv::SessionOptions options;
    options.flags = HOSTKV_SESSION_ASYNC_COMMIT;
    const hostkv::Session session = value(hostkv::Session::open(options));
    const hostkv::Keyspace keyspace = value(session.open_keyspace({"async", "", 0, 0}));
    const hostkv::Key key = value(hostkv::key_from_bytes("at once"));
    static_cast<void>(value(keyspace.remove({key})));
    hostkv::Reservation reservation = value(keyspace.reserve({{key, object_bytes}}));
    CHECK(fill(reservation) == 1);
    DONE(reservation.commit());
    DONE(session.flush());
    CHECK(value(keyspace.lookup({key})) == 1);
}

void what_is_held_outlives_its_session() {
    hostkv::Session session = value(hostkv::Session::open());
    hostkv::KeyspaceOptions options;
    options.model_name = "test/hostkv_hpp";
    hostkv::Lease lease;
    {
        const hostkv::Keyspace keyspace = value(session.open_keyspace(options));
        const hostkv::Key key = value(hostkv::key_from_bytes("outlives"));
        static_cast<void>(value(keyspace.remove({key})));
        hostkv::Reservation reservation = value(keyspace.reserve({{key, object_bytes}}));
        CHECK(fill(reservation) == 1);
        lease = value(reservation.commit_and_acquire());
        options.layout_fingerprint = 1;
        CHECK(FAULT_OF(session.open_keyspace(options)) == hostkv::Status::layout_mismatch);
    }
    DONE(session.close());
    CHECK(!session && FAULT_OF(session.info()) == hostkv::Status::invalid_argument);
    CHECK(lease[0].span.data()[0] == std::byte{'a'});
    CHECK(value(lease.release()));
}

} // namespace

int main() {
    keys_come_from_tokens_and_bytes();
    names_and_codes_agree();
    no_daemon_is_disconnected();
    hostkv::SessionOptions options;
    options.client_name = "hostkv_hpp";
    hostkv::Session opened = value(hostkv::Session::open(options));
    const hostkv::Session session = std::move(opened);
    hostkv::KeyspaceOptions layout;
    layout.model_name = "test/hostkv_hpp";
    hostkv::Keyspace keyspace = value(session.open_keyspace(layout));
    const hostkv::Keyspace moved = std::move(keyspace);
    CHECK(FAULT_OF(keyspace.lookup({hostkv::Key{}})) == hostkv::Status::invalid_argument);
    write_then_read(session, moved);
    leases_and_spans_are_ranges(moved);
    handles_are_those_of_c(session, moved);
    a_fault_carries_the_sentence_of_the_library();
    session_tells_about_itself(session, moved);
    a_flush_waits_for_what_was_committed_without_a_round_trip();
    what_is_held_outlives_its_session();
    std::printf("hostkv_hpp: %d checks\n", check_count);
    return 0;
}
