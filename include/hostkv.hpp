// hostkv.hpp: C++17 on hostkv.h. Header-only; link libhostkv as for C.
//
//     auto session  = hostkv::Session::open();
//     auto keyspace = session.open_keyspace({"my-model", "", layout_fingerprint});
//     auto keys     = hostkv::chunk_keys(tokens, tokens_per_key);
//
//     // read: the longest cached prefix, in place
//     auto lease = keyspace.acquire(keys);
//     for (const hostkv::LeaseItem &item : lease) {
//         if (!item) break;                                       // not cached from here on
//         use(item.span.data(), item.span.size());
//     }
//     if (!lease.release()) { /* it expired: drop what was read */ }
//
//     // write: reserve, fill in place, commit
//     auto reservation = keyspace.reserve({{keys[0], len_bytes}});
//     if (auto item = reservation[0]) fill(item.span.data(), item.span.size());
//     reservation.commit();
//
// What a call means is in hostkv.h; this header says only what C++ adds.
//
// Values. Session, Keyspace, Reservation and Lease own what they stand for and can be moved, not copied.
// A destructor never fails: a Lease is released, a Reservation that was not committed is aborted, a Session
// is closed. Leases and Reservations may outlive their Session (the memory stays mapped until the last of
// them ends); a Keyspace must not be used after its Session is closed or destroyed. A moved-from or ended
// value holds nothing: it has size 0, using it reports invalid_argument, ending it again does nothing.
//
// Errors. Outcomes that belong to one key (not_found, exists, reserved, no_space, quota) are in the item.
// `check` and `release` of a Lease return false when it expired. Everything else is a fault:
//   - with exceptions it is thrown as hostkv::Error, a std::system_error: `code()` compares equal to a
//     hostkv::Status, `what()` has the library's sentence. Returned<T> is then just T.
//   - with HOSTKV_NO_EXCEPTIONS (chosen by itself under -fno-exceptions) a call that can fail returns
//     Result<T> = Returned<T>: test it, then `*result` is the value, `status()` and `message()` the fault.
//     std::bad_alloc is the one thing that is left to the runtime.
//
// Threads. As in C: const members may be called from many threads at once, the others from one at a time.

#ifndef HOSTKV_HPP
#define HOSTKV_HPP

#include "hostkv.h"

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__has_include)
#if __has_include(<version>)
#include <version>
#endif
#endif
#if defined(__cpp_lib_span)
#include <span>
#endif

#if !defined(HOSTKV_NO_EXCEPTIONS) && !defined(__cpp_exceptions)
#define HOSTKV_NO_EXCEPTIONS 1
#endif

namespace hostkv {
// One program may hold translation units of both kinds; their types must not mix.
#if defined(HOSTKV_NO_EXCEPTIONS)
inline namespace results {
#else
inline namespace exceptions {
#endif

// ---------------------------------------------------------------------------------------------- errors

// hostkv_status as a scoped enum; the numbers are the same.
enum class Status : std::int32_t {
    ok = HOSTKV_STATUS_OK,
    not_found = HOSTKV_STATUS_NOT_FOUND,
    exists = HOSTKV_STATUS_EXISTS,
    reserved = HOSTKV_STATUS_RESERVED,
    no_space = HOSTKV_STATUS_NO_SPACE,
    quota = HOSTKV_STATUS_QUOTA,
    expired = HOSTKV_STATUS_EXPIRED,
    invalid_argument = HOSTKV_STATUS_INVALID_ARGUMENT,
    read_only = HOSTKV_STATUS_READ_ONLY,
    permission = HOSTKV_STATUS_PERMISSION,
    version_mismatch = HOSTKV_STATUS_VERSION_MISMATCH,
    layout_mismatch = HOSTKV_STATUS_LAYOUT_MISMATCH,
    disconnected = HOSTKV_STATUS_DISCONNECTED,
    timeout = HOSTKV_STATUS_TIMEOUT,
    forked = HOSTKV_STATUS_FORKED,
    system = HOSTKV_STATUS_SYSTEM,
    internal = HOSTKV_STATUS_INTERNAL,
};

inline Status to_status(hostkv_status status) noexcept {
    return static_cast<Status>(static_cast<std::int32_t>(status));
}

// "OK", "NOT_FOUND", …
inline const char *status_name(Status status) noexcept {
    return hostkv_status_name(static_cast<std::int32_t>(status));
}

// This thread's last failure in one sentence; good until its next failing call.
inline const char *last_error() noexcept { return hostkv_last_error(); }

// The category of every error code made from a Status; its name is "hostkv".
inline const std::error_category &category() noexcept {
    class Category final : public std::error_category {
    public:
        const char *name() const noexcept override { return "hostkv"; }
        std::string message(int number) const override { return hostkv_status_name(number); }
    };
    static const Category instance;
    return instance;
}

inline std::error_code make_error_code(Status status) noexcept {
    return std::error_code(static_cast<int>(status), category());
}

#if !defined(HOSTKV_NO_EXCEPTIONS)

// A call that failed. `error.code() == hostkv::Status::disconnected` tells what it was.
class Error : public std::system_error {
public:
    Error(Status status, const std::string &sentence)
        : std::system_error(make_error_code(status), sentence) {}
    Status status() const noexcept { return static_cast<Status>(code().value()); }
};

// What a call that can fail returns.
template <class T>
using Returned = T;

#else

// A value, or why there is none.
template <class T>
class [[nodiscard]] Result {
public:
    Result(T value) : value_(std::move(value)) {}
    Result(Status status, std::string sentence) : status_(status), message_(std::move(sentence)) {}

    explicit operator bool() const noexcept { return value_.has_value(); }
    Status status() const noexcept { return status_; }
    std::error_code code() const noexcept { return make_error_code(status_); }
    const std::string &message() const noexcept { return message_; } // empty when there is a value

    // Only when there is a value.
    T &operator*() & noexcept { return *value_; }
    const T &operator*() const & noexcept { return *value_; }
    T &&operator*() && noexcept { return *std::move(value_); }
    T *operator->() noexcept { return &*value_; }
    const T *operator->() const noexcept { return &*value_; }

private:
    std::optional<T> value_;
    Status status_ = Status::ok;
    std::string message_;
};

template <>
class [[nodiscard]] Result<void> {
public:
    Result() = default;
    Result(Status status, std::string sentence) : status_(status), message_(std::move(sentence)) {}

    explicit operator bool() const noexcept { return status_ == Status::ok; }
    Status status() const noexcept { return status_; }
    std::error_code code() const noexcept { return make_error_code(status_); }
    const std::string &message() const noexcept { return message_; }

private:
    Status status_ = Status::ok;
    std::string message_;
};

// What a call that can fail returns.
template <class T>
using Returned = Result<T>;

#endif

namespace detail {

// The one place where a failed call becomes an Error or a Result.
template <class T>
Returned<T> fault(Status status) {
#if defined(HOSTKV_NO_EXCEPTIONS)
    return Result<T>(status, hostkv_last_error());
#else
    throw Error(status, hostkv_last_error());
#endif
}

inline Returned<void> checked(hostkv_status status) {
    if (to_status(status) != Status::ok) return fault<void>(to_status(status));
    return Returned<void>();
}

// true for OK, false for EXPIRED, a fault for all else.
inline Returned<bool> verdict(hostkv_status status) {
    if (to_status(status) == Status::ok) return true;
    if (to_status(status) == Status::expired) return false;
    return fault<bool>(to_status(status));
}

inline const char *text_or_null(const std::string &text) noexcept { return text.empty() ? nullptr : text.c_str(); }

} // namespace detail

// --------------------------------------------------------------------------------------- spans and views

// Bytes in a segment: const std::byte where they are read, std::byte where they are written. Converts to
// std::span where the language has it. (No begin and end of its own: a range converts to std::span by a
// second way, and compilers warn of the choice.)
template <class Byte>
class BasicSpan {
public:
    using Void = std::conditional_t<std::is_const_v<Byte>, const void, void>;

    constexpr BasicSpan() noexcept = default;
    BasicSpan(Void *data, std::uint64_t len_bytes) noexcept
        : data_(static_cast<Byte *>(data)), size_(static_cast<std::size_t>(len_bytes)) {}

    constexpr Byte *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }

#if defined(__cpp_lib_span)
    constexpr operator std::span<Byte>() const noexcept { return {data_, size_}; }
#endif

private:
    Byte *data_ = nullptr;
    std::size_t size_ = 0;
};

using ReadSpan = BasicSpan<const std::byte>;
using WriteSpan = BasicSpan<std::byte>;

// An argument of many values: a vector, an array, a std::span, a braced list, or pointer and count.
// It owns nothing and is good for the call it is passed to.
template <class T>
class View {
public:
    constexpr View(const T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    // Assigned in the body: as initialisers the same lines draw a warning about lifetime from g++, which is
    // right for a stored View and not for an argument.
    constexpr View(std::initializer_list<T> values) noexcept {
        data_ = values.begin();
        size_ = values.size();
    }
    template <std::size_t N>
    constexpr View(const T (&values)[N]) noexcept : data_(values), size_(N) {}
    template <class Container, class = std::enable_if_t<std::is_convertible_v<
                                   decltype(std::declval<const Container &>().data()), const T *>>>
    constexpr View(const Container &values) noexcept : data_(values.data()), size_(values.size()) {}

    constexpr const T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }

private:
    const T *data_ = nullptr;
    std::size_t size_ = 0;
};

// One key of a Lease: ok (then the span is its object), not_found or quota.
struct LeaseItem {
    Status status = Status::invalid_argument;
    ReadSpan span;
    explicit operator bool() const noexcept { return status == Status::ok; }
};

// One item of a Reservation: ok (then the span is the place to write), exists, reserved, no_space or quota.
struct ReserveItem {
    Status status = Status::invalid_argument;
    WriteSpan span;
    explicit operator bool() const noexcept { return status == Status::ok; }
};

// Walks a Lease or a Reservation in the order of the call; the values are made on the way, so it yields
// them by value. Good until its owner is moved or ended.
template <class Owner, class Item>
class ItemIterator {
public:
    using iterator_category = std::input_iterator_tag;
    using value_type = Item;
    using difference_type = std::ptrdiff_t;
    using pointer = const Item *;
    using reference = Item;

    ItemIterator() noexcept = default;
    ItemIterator(const Owner *owner, std::size_t index) noexcept : owner_(owner), index_(index) {}

    Item operator*() const noexcept { return (*owner_)[index_]; }
    ItemIterator &operator++() noexcept {
        ++index_;
        return *this;
    }
    ItemIterator operator++(int) noexcept {
        ItemIterator before = *this;
        ++index_;
        return before;
    }
    friend bool operator==(const ItemIterator &a, const ItemIterator &b) noexcept { return a.index_ == b.index_; }
    friend bool operator!=(const ItemIterator &a, const ItemIterator &b) noexcept { return a.index_ != b.index_; }

private:
    const Owner *owner_ = nullptr;
    std::size_t index_ = 0;
};

// --------------------------------------------------------------------------------------------- library

// The interface version of the library that is loaded.
inline std::uint32_t abi_version() noexcept { return hostkv_abi_version(); }
inline const char *version() noexcept { return hostkv_version_string(); }

// The fastest copy into a segment on this processor.
inline void copy(void *destination, const void *source, std::size_t len_bytes) noexcept {
    hostkv_copy(destination, source, len_bytes);
}

// Set `kv_rank` and `object_group_id` yourself; the functions below leave them 0.
using Key = hostkv_key;

// 1 to 32 bytes as they are, of longer ones the BLAKE3-256.
inline Returned<Key> key_from_bytes(const void *bytes, std::size_t len_bytes) {
    Key key{};
    const Status status = to_status(hostkv_key_from_bytes(bytes, len_bytes, &key));
    if (status != Status::ok) return detail::fault<Key>(status);
    return key;
}
inline Returned<Key> key_from_bytes(std::string_view bytes) { return key_from_bytes(bytes.data(), bytes.size()); }

// One key for each whole chunk of `tokens_per_key` tokens; each depends on all tokens before it.
inline Returned<std::vector<Key>> chunk_keys(View<std::uint32_t> tokens, std::uint32_t tokens_per_key) {
    const std::size_t capacity = tokens_per_key == 0 ? 0 : tokens.size() / tokens_per_key;
    // The C function wants non-null pointers even for a prompt that is shorter than a chunk.
    std::vector<Key> keys(capacity == 0 ? 1 : capacity);
    const std::uint32_t none = 0;
    std::size_t count = 0;
    const Status status = to_status(hostkv_chunk_keys(tokens.data() == nullptr ? &none : tokens.data(), tokens.size(),
                                                      tokens_per_key, keys.data(), capacity, &count));
    if (status != Status::ok) return detail::fault<std::vector<Key>>(status);
    keys.resize(count);
    return keys;
}

// Names and flags of one call, all optional; the texts must live as long as the call.
struct Request {
    const char *request_id = nullptr; // appears in telemetry and logs
    const char *device = nullptr;     // appears in telemetry
    std::uint32_t flags = 0;          // HOSTKV_ACQUIRE_ALL

    hostkv_request c_struct() const noexcept {
        hostkv_request request{};
        request.struct_size = static_cast<std::uint32_t>(sizeof request);
        request.flags = flags;
        request.request_id = request_id;
        request.device = device;
        return request;
    }
};

// ---------------------------------------------------------------------------------------------- lease

// Objects that stay where they are, unchanged, until release. A range of LeaseItem, one for each key asked.
class Lease {
public:
    using iterator = ItemIterator<Lease, LeaseItem>;
    using const_iterator = iterator;

    Lease() noexcept = default;
    explicit Lease(hostkv_lease *owned) noexcept : handle_(owned) {}

    std::size_t size() const noexcept { return hostkv_lease_get_count(handle_.get()); }
    bool empty() const noexcept { return size() == 0; }
    // Leading keys that are pinned: the cached prefix.
    std::size_t prefix_count() const noexcept { return hostkv_lease_get_prefix_count(handle_.get()); }

    // An index past the end says invalid_argument.
    LeaseItem operator[](std::size_t index) const noexcept {
        hostkv_span span{};
        LeaseItem item;
        item.status = to_status(hostkv_lease_get_span(handle_.get(), index, &span));
        if (item) item.span = ReadSpan(span.data, span.len_bytes);
        return item;
    }
    iterator begin() const noexcept { return iterator(this, 0); }
    iterator end() const noexcept { return iterator(this, size()); }

    // false: the lease expired, and what was read since the last true is void.
    Returned<bool> check() const { return detail::verdict(hostkv_lease_check(handle_.get())); }
    // The same verdict; ends the lease whatever it says.
    Returned<bool> release() { return detail::verdict(hostkv_lease_release(handle_.release())); }

    hostkv_lease *get() const noexcept { return handle_.get(); }
    explicit operator bool() const noexcept { return handle_ != nullptr; }

private:
    struct End {
        void operator()(hostkv_lease *lease) const noexcept { static_cast<void>(hostkv_lease_release(lease)); }
    };
    std::unique_ptr<hostkv_lease, End> handle_;
};

// ---------------------------------------------------------------------------------------- reservation

// Places to write, unseen by readers until commit. A range of ReserveItem, one for each item asked.
class Reservation {
public:
    using iterator = ItemIterator<Reservation, ReserveItem>;
    using const_iterator = iterator;

    Reservation() noexcept = default;
    explicit Reservation(hostkv_reservation *owned) noexcept : handle_(owned) {}

    std::size_t size() const noexcept { return hostkv_reservation_get_count(handle_.get()); }
    bool empty() const noexcept { return size() == 0; }

    // An index past the end says invalid_argument.
    ReserveItem operator[](std::size_t index) const noexcept {
        hostkv_span_mut span{};
        ReserveItem item;
        item.status = to_status(hostkv_reservation_get_span(handle_.get(), index, &span));
        if (item) item.span = WriteSpan(span.data, span.len_bytes);
        return item;
    }
    iterator begin() const noexcept { return iterator(this, 0); }
    iterator end() const noexcept { return iterator(this, size()); }

    // Makes all granted items readable. Ends the reservation, like the next two, whatever comes of it.
    Returned<void> commit() { return detail::checked(hostkv_reservation_commit(handle_.release())); }
    // The same, and pins them for reading; the lease has this reservation's order.
    Returned<Lease> commit_and_acquire() {
        hostkv_lease *lease = nullptr;
        const Status status = to_status(hostkv_reservation_commit_and_acquire(handle_.release(), &lease));
        if (status != Status::ok) return detail::fault<Lease>(status);
        return Lease(lease);
    }
    // Gives everything back. The destructor does this too, and ignores how it went.
    Returned<void> abort() { return detail::checked(hostkv_reservation_abort(handle_.release())); }

    hostkv_reservation *get() const noexcept { return handle_.get(); }
    explicit operator bool() const noexcept { return handle_ != nullptr; }

private:
    struct End {
        void operator()(hostkv_reservation *reservation) const noexcept {
            static_cast<void>(hostkv_reservation_abort(reservation));
        }
    };
    std::unique_ptr<hostkv_reservation, End> handle_;
};

// ------------------------------------------------------------------------------------------- keyspace

struct KeyspaceOptions {
    std::string model_name;                // which model and layout
    std::string cache_salt;                // which tenant
    std::uint64_t layout_fingerprint = 0;  // dtype, shape, layer count, quantisation
    std::uint32_t tokens_per_key = 0;      // 0: the daemon's chunk size
};

// The keys of one model and tenant. Made by Session::open_keyspace; not to be used after that session's end.
class Keyspace {
public:
    Keyspace() noexcept = default;
    Keyspace(const hostkv_session *session, hostkv_keyspace number) noexcept : session_(session), number_(number) {}
    Keyspace(Keyspace &&other) noexcept : session_(std::exchange(other.session_, nullptr)), number_(other.number_) {}
    Keyspace &operator=(Keyspace &&other) noexcept {
        session_ = std::exchange(other.session_, nullptr);
        number_ = other.number_;
        return *this;
    }

    // Space for the longest leading run of new keys that fits.
    Returned<Reservation> reserve(View<hostkv_reserve_item> items, const Request &request = {}) const {
        const hostkv_request c_request = request.c_struct();
        hostkv_reservation *reservation = nullptr;
        const Status status = to_status(
            hostkv_session_reserve(session_, number_, items.data(), items.size(), &c_request, &reservation));
        if (status != Status::ok) return detail::fault<Reservation>(status);
        return Reservation(reservation);
    }

    // Pins the leading run of present keys; with HOSTKV_ACQUIRE_ALL every present key.
    Returned<Lease> acquire(View<Key> keys, const Request &request = {}) const {
        const hostkv_request c_request = request.c_struct();
        hostkv_lease *lease = nullptr;
        const Status status =
            to_status(hostkv_session_acquire(session_, number_, keys.data(), keys.size(), &c_request, &lease));
        if (status != Status::ok) return detail::fault<Lease>(status);
        return Lease(lease);
    }

    // How many leading keys are present, without a pin. `ret_present`, if not null, gets one byte a key.
    Returned<std::size_t> lookup(View<Key> keys, std::uint8_t *ret_present = nullptr) const {
        std::size_t prefix_count = 0;
        const Status status = to_status(
            hostkv_session_lookup(session_, number_, keys.data(), keys.size(), &prefix_count, ret_present));
        if (status != Status::ok) return detail::fault<std::size_t>(status);
        return prefix_count;
    }

    // One element a key: whether it was there.
    Returned<std::vector<bool>> remove(View<Key> keys) const {
        std::vector<std::uint8_t> removed(keys.size() == 0 ? 1 : keys.size());
        const Status status =
            to_status(hostkv_session_remove(session_, number_, keys.data(), keys.size(), removed.data()));
        if (status != Status::ok) return detail::fault<std::vector<bool>>(status);
        return std::vector<bool>(removed.begin(), removed.begin() + static_cast<std::ptrdiff_t>(keys.size()));
    }

    hostkv_keyspace number() const noexcept { return number_; }

private:
    const hostkv_session *session_ = nullptr;
    hostkv_keyspace number_ = 0;
};

// -------------------------------------------------------------------------------------------- session

struct SessionOptions {
    std::string socket_path;           // empty: HOSTKV_SOCKET, then the usual places
    std::string client_name;           // empty: the library's choice
    std::uint32_t flags = 0;           // HOSTKV_SESSION_…
    std::uint32_t pin_slot_count = 0;  // 0: the default
    std::uint32_t timeout_ms = 0;      // 0: the default
};

// One process's connection to the pool.
class Session {
public:
    Session() noexcept = default;
    explicit Session(hostkv_session *owned) noexcept : handle_(owned) {}

    static Returned<Session> open(const SessionOptions &options = {}) {
        hostkv_session_config config{};
        hostkv_session_config_init(&config);
        config.flags = options.flags;
        config.socket_path = detail::text_or_null(options.socket_path);
        if (!options.client_name.empty()) config.client_name = options.client_name.c_str();
        config.pin_slot_count = options.pin_slot_count;
        config.timeout_ms = options.timeout_ms;
        hostkv_session *session = nullptr;
        const Status status = to_status(hostkv_session_open(&config, &session));
        if (status != Status::ok) return detail::fault<Session>(status);
        return Session(session);
    }

    Returned<Keyspace> open_keyspace(const KeyspaceOptions &options) const {
        hostkv_keyspace_config config{};
        config.struct_size = static_cast<std::uint32_t>(sizeof config);
        config.tokens_per_key = options.tokens_per_key;
        config.model_name = options.model_name.c_str();
        config.cache_salt = detail::text_or_null(options.cache_salt);
        config.layout_fingerprint = options.layout_fingerprint;
        hostkv_keyspace number = 0;
        const Status status = to_status(hostkv_session_open_keyspace(handle_.get(), &config, &number));
        if (status != Status::ok) return detail::fault<Keyspace>(status);
        return Keyspace(handle_.get(), number);
    }

    Returned<hostkv_session_info> info() const {
        hostkv_session_info info{};
        info.struct_size = static_cast<std::uint32_t>(sizeof info);
        const Status status = to_status(hostkv_session_get_info(handle_.get(), &info));
        if (status != Status::ok) return detail::fault<hostkv_session_info>(status);
        return info;
    }

    Returned<hostkv_stats> stats() const {
        hostkv_stats stats{};
        stats.struct_size = static_cast<std::uint32_t>(sizeof stats);
        const Status status = to_status(hostkv_session_get_stats(handle_.get(), &stats));
        if (status != Status::ok) return detail::fault<hostkv_stats>(status);
        return stats;
    }

    // The whole payload mapping, to register it for DMA; `which` is HOSTKV_MAPPING_READ or HOSTKV_MAPPING_WRITE.
    Returned<WriteSpan> mapping(std::uint32_t which) const {
        hostkv_span_mut span{};
        const Status status = to_status(hostkv_session_get_mapping(handle_.get(), which, &span));
        if (status != Status::ok) return detail::fault<WriteSpan>(status);
        return WriteSpan(span.data, span.len_bytes);
    }

    // Becomes readable when the daemon has ended; to wait on, never to read or close.
    int fd() const noexcept { return hostkv_session_get_fd(handle_.get()); }

    // Removes every key of every keyspace this session opened and says how many; with
    // HOSTKV_CLEAR_ALL_KEYSPACES every key there is.
    Returned<std::uint64_t> clear(std::uint32_t flags = 0) const {
        std::uint64_t removed_count = 0;
        const Status status = to_status(hostkv_session_clear(handle_.get(), flags, &removed_count));
        if (status != Status::ok) return detail::fault<std::uint64_t>(status);
        return removed_count;
    }

    // Refuses further work. The destructor does this too, and ignores how it went.
    Returned<void> close() { return detail::checked(hostkv_session_close(handle_.release())); }

    hostkv_session *get() const noexcept { return handle_.get(); }
    explicit operator bool() const noexcept { return handle_ != nullptr; }

private:
    struct End {
        void operator()(hostkv_session *session) const noexcept { static_cast<void>(hostkv_session_close(session)); }
    };
    std::unique_ptr<hostkv_session, End> handle_;
};

} // inline namespace
} // namespace hostkv

template <>
struct std::is_error_code_enum<hostkv::Status> : std::true_type {};

#endif
