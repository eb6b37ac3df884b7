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
// Values. Session, Keyspace, Reservation, Lease and Prefetch own what they stand for and can be moved, not copied.
// A destructor never fails: a Lease is released, a Reservation that was not committed is aborted, a Prefetch is ended, a
// Session is closed. Leases, Reservations and Prefetches may outlive their Session (the memory stays mapped until the last of
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
//
// Ranges. A Lease and a Reservation are random-access, sized ranges of items in the order of the call; an item's
// span is a contiguous range of bytes, which converts to std::span where the language has it.
//
// `-> name` in a comment: the function of hostkv.h that is called.

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
#if defined(__cpp_lib_ranges)
#include <ranges>
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
    // Done.
    ok = HOSTKV_STATUS_OK,
    // The key is not in the pool, or not readable yet.
    not_found = HOSTKV_STATUS_NOT_FOUND,
    // Reserve: already committed; there is nothing to write.
    exists = HOSTKV_STATUS_EXISTS,
    // Reserve: another writer holds the key, or it is twice in one call.
    reserved = HOSTKV_STATUS_RESERVED,
    // Bytes or an index entry could not be made free; last_error() says which.
    no_space = HOSTKV_STATUS_NO_SPACE,
    // A limit on pins, reserved bytes, keyspaces or sessions; last_error() names it.
    quota = HOSTKV_STATUS_QUOTA,
    // The lease or reservation outlived its time.
    expired = HOSTKV_STATUS_EXPIRED,
    // An argument is not allowed, or the value that was used has ended; last_error() says what is.
    invalid_argument = HOSTKV_STATUS_INVALID_ARGUMENT,
    // A write by a read-only session.
    read_only = HOSTKV_STATUS_READ_ONLY,
    // The daemon refuses this user; last_error() names the uid and the daemon's flag.
    permission = HOSTKV_STATUS_PERMISSION,
    // Library and daemon are of releases that do not understand each other.
    version_mismatch = HOSTKV_STATUS_VERSION_MISMATCH,
    // The keyspace is open with another layout fingerprint or another number of tokens.
    layout_mismatch = HOSTKV_STATUS_LAYOUT_MISMATCH,
    // There is no daemon at the socket, or the session's daemon is gone; a miss. Open a new session later.
    disconnected = HOSTKV_STATUS_DISCONNECTED,
    // The daemon did not answer in SessionOptions::timeout_ms.
    timeout = HOSTKV_STATUS_TIMEOUT,
    // The session belongs to the parent of this process.
    forked = HOSTKV_STATUS_FORKED,
    // The operating system refused; last_error() has its words.
    system = HOSTKV_STATUS_SYSTEM,
    // A defect of the library or of the daemon.
    internal = HOSTKV_STATUS_INTERNAL,
};

// A status of C as one of C++; the numbers are the same.
inline Status to_status(hostkv_status status) noexcept {
    return static_cast<Status>(static_cast<std::int32_t>(status));
}

// "OK", "NOT_FOUND", … -> hostkv_status_name
inline const char *status_name(Status status) noexcept {
    return hostkv_status_name(static_cast<std::int32_t>(status));
}

// This thread's last failure in one sentence; good until its next failing call. -> hostkv_last_error
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

// Lets a Status stand where a std::error_code is wanted.
inline std::error_code make_error_code(Status status) noexcept {
    return std::error_code(static_cast<int>(status), category());
}

#if !defined(HOSTKV_NO_EXCEPTIONS)

// A call that failed. `error.code() == hostkv::Status::disconnected` tells what it was.
class Error : public std::system_error {
public:
    // Of a status and the sentence that `what()` begins with.
    Error(Status status, const std::string &sentence)
        : std::system_error(make_error_code(status), sentence) {}
    // What failed, as a Status.
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
    // With a value.
    Result(T value) : value_(std::move(value)) {}
    // Without one, and why.
    Result(Status status, std::string sentence) : status_(status), message_(std::move(sentence)) {}

    // Whether there is a value.
    explicit operator bool() const noexcept { return value_.has_value(); }
    // Status::ok, or what failed.
    Status status() const noexcept { return status_; }
    // The same as an error code, which is false when nothing failed.
    std::error_code code() const noexcept { return make_error_code(status_); }
    // The library's sentence about the failure; empty when there is a value.
    const std::string &message() const noexcept { return message_; }

    // The value, or a member of it. Only when there is one.
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

// That a call without a value was done, or why not.
template <>
class [[nodiscard]] Result<void> {
public:
    // Done.
    Result() = default;
    // Not done, and why.
    Result(Status status, std::string sentence) : status_(status), message_(std::move(sentence)) {}

    // Whether it was done.
    explicit operator bool() const noexcept { return status_ == Status::ok; }
    // Status::ok, or what failed.
    Status status() const noexcept { return status_; }
    // The same as an error code, which is false when nothing failed.
    std::error_code code() const noexcept { return make_error_code(status_); }
    // The library's sentence about the failure; empty when it was done.
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

// Bytes in a segment: const std::byte where they are read, std::byte where they are written. A contiguous range,
// which converts to std::span by that; it owns nothing and can be copied.
template <class Byte>
class BasicSpan {
public:
    // What data pointers of C point at.
    using Void = std::conditional_t<std::is_const_v<Byte>, const void, void>;
    // What a range of the standard library names.
    using value_type = std::remove_const_t<Byte>;
    // Walks the bytes.
    using iterator = Byte *;

    // No bytes.
    constexpr BasicSpan() noexcept = default;
    // `len_bytes` bytes from `data` on.
    BasicSpan(Void *data, std::uint64_t len_bytes) noexcept
        : data_(static_cast<Byte *>(data)), size_(static_cast<std::size_t>(len_bytes)) {}
    // What may be written may be read.
    template <class Other, class = std::enable_if_t<std::is_same_v<const Other, Byte> && !std::is_const_v<Other>>>
    constexpr BasicSpan(const BasicSpan<Other> &other) noexcept : data_(other.data()), size_(other.size()) {}

    // The first byte; null when there is none.
    constexpr Byte *data() const noexcept { return data_; }
    // Length in bytes.
    constexpr std::size_t size() const noexcept { return size_; }
    // Whether there is no byte.
    constexpr bool empty() const noexcept { return size_ == 0; }
    // One byte; the index is not checked.
    constexpr Byte &operator[](std::size_t index) const noexcept { return data_[index]; }
    // At the first byte.
    constexpr iterator begin() const noexcept { return data_; }
    // Behind the last byte.
    constexpr iterator end() const noexcept { return data_ + size_; }

private:
    Byte *data_ = nullptr;
    std::size_t size_ = 0;
};

// Bytes to read.
using ReadSpan = BasicSpan<const std::byte>;
// Bytes to write.
using WriteSpan = BasicSpan<std::byte>;

// An argument of many values: a vector, an array, a std::span, a braced list, or pointer and count.
// It owns nothing and is good for the call it is passed to.
template <class T>
class View {
public:
    // `size` values from `data` on.
    constexpr View(const T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    // A braced list. Assigned in the body: as initialisers the same lines draw a warning about lifetime from g++,
    // which is right for a stored View and not for an argument.
    constexpr View(std::initializer_list<T> values) noexcept {
        data_ = values.begin();
        size_ = values.size();
    }
    // An array.
    template <std::size_t N>
    constexpr View(const T (&values)[N]) noexcept : data_(values), size_(N) {}
    // All that has data and size.
    template <class Container, class = std::enable_if_t<std::is_convertible_v<
                                   decltype(std::declval<const Container &>().data()), const T *>>>
    constexpr View(const Container &values) noexcept : data_(values.data()), size_(values.size()) {}

    // The first value.
    constexpr const T *data() const noexcept { return data_; }
    // How many there are.
    constexpr std::size_t size() const noexcept { return size_; }

private:
    const T *data_ = nullptr;
    std::size_t size_ = 0;
};

// One key of a Lease: ok (then the span is its object), not_found or quota.
struct LeaseItem {
    // Whether the key is pinned, and else why not.
    Status status = Status::invalid_argument;
    // The object's bytes, unchanged until the lease ends; empty when it is not pinned.
    ReadSpan span;
    // Whether there is an object to read.
    explicit operator bool() const noexcept { return status == Status::ok; }
};

// One item of a Reservation: ok (then the span is the place to write), exists, reserved, no_space or quota.
struct ReserveItem {
    // Whether there is a place to write, and else why not.
    Status status = Status::invalid_argument;
    // The place, exactly as long as was asked; empty when there is none.
    WriteSpan span;
    // Whether there is a place to write.
    explicit operator bool() const noexcept { return status == Status::ok; }
};

// Walks a Lease or a Reservation in the order of the call, also in steps and backwards. The items are made on the way,
// so it yields them by value: C++17 calls that an input iterator, C++20 a random-access one. Good until its owner is
// moved or ended; two are compared only when they have the same owner.
template <class Owner, class Item>
class ItemIterator {
public:
    // For C++17.
    using iterator_category = std::input_iterator_tag;
    // For C++20 and later, which do not ask for references.
    using iterator_concept = std::random_access_iterator_tag;
    // LeaseItem or ReserveItem.
    using value_type = Item;
    // Between two iterators.
    using difference_type = std::ptrdiff_t;
    // By value.
    using reference = Item;
    // Keeps the item while one of its members is used.
    class pointer {
    public:
        // Of this item.
        explicit pointer(Item item) noexcept : item_(item) {}
        // Its members.
        const Item *operator->() const noexcept { return &item_; }

    private:
        Item item_;
    };

    // Of nothing.
    ItemIterator() noexcept = default;
    // At one item of a Lease or Reservation.
    ItemIterator(const Owner *owner, difference_type index) noexcept : owner_(owner), index_(index) {}

    // The item here.
    Item operator*() const noexcept { return (*owner_)[static_cast<std::size_t>(index_)]; }
    // A member of the item here.
    pointer operator->() const noexcept { return pointer(**this); }
    // The item some steps on.
    Item operator[](difference_type steps) const noexcept { return *(*this + steps); }

    // Steps on and back, as with a pointer.
    ItemIterator &operator++() noexcept { return *this += 1; }
    ItemIterator operator++(int) noexcept { return std::exchange(*this, *this + 1); }
    ItemIterator &operator--() noexcept { return *this -= 1; }
    ItemIterator operator--(int) noexcept { return std::exchange(*this, *this - 1); }
    ItemIterator &operator+=(difference_type steps) noexcept { return index_ += steps, *this; }
    ItemIterator &operator-=(difference_type steps) noexcept { return index_ -= steps, *this; }
    friend ItemIterator operator+(ItemIterator from, difference_type steps) noexcept { return from += steps; }
    friend ItemIterator operator+(difference_type steps, ItemIterator from) noexcept { return from += steps; }
    friend ItemIterator operator-(ItemIterator from, difference_type steps) noexcept { return from -= steps; }
    friend difference_type operator-(const ItemIterator &a, const ItemIterator &b) noexcept { return a.index_ - b.index_; }

    // By the order of the items.
    friend bool operator==(const ItemIterator &a, const ItemIterator &b) noexcept { return a.index_ == b.index_; }
    friend bool operator!=(const ItemIterator &a, const ItemIterator &b) noexcept { return a.index_ != b.index_; }
    friend bool operator<(const ItemIterator &a, const ItemIterator &b) noexcept { return a.index_ < b.index_; }
    friend bool operator>(const ItemIterator &a, const ItemIterator &b) noexcept { return a.index_ > b.index_; }
    friend bool operator<=(const ItemIterator &a, const ItemIterator &b) noexcept { return a.index_ <= b.index_; }
    friend bool operator>=(const ItemIterator &a, const ItemIterator &b) noexcept { return a.index_ >= b.index_; }

private:
    const Owner *owner_ = nullptr;
    difference_type index_ = 0;
};

// --------------------------------------------------------------------------------------------- library

// The interface version of the library that is loaded. -> hostkv_abi_version
inline std::uint32_t abi_version() noexcept { return hostkv_abi_version(); }
// Its release, like "0.1.0". -> hostkv_version_string
inline const char *version() noexcept { return hostkv_version_string(); }

// The fastest copy into a segment on this processor. -> hostkv_copy
inline void copy(void *destination, const void *source, std::size_t len_bytes) noexcept {
    hostkv_copy(destination, source, len_bytes);
}

// The name of one object. Set `kv_rank` and `object_group_id` yourself; the functions below leave them 0.
using Key = hostkv_key;

// 1 to 32 bytes as they are, of longer ones the BLAKE3-256. -> hostkv_key_from_bytes
inline Returned<Key> key_from_bytes(const void *bytes, std::size_t len_bytes) {
    Key key{};
    const Status status = to_status(hostkv_key_from_bytes(bytes, len_bytes, &key));
    if (status != Status::ok) return detail::fault<Key>(status);
    return key;
}
// The same of a text.
inline Returned<Key> key_from_bytes(std::string_view bytes) { return key_from_bytes(bytes.data(), bytes.size()); }

// One key for each whole chunk of `tokens_per_key` tokens; each depends on all tokens before it.
// -> hostkv_chunk_keys
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
    // Appears in telemetry and logs: 1 to 128 bytes of UTF-8, or null.
    const char *request_id = nullptr;
    // Appears in telemetry: at most 32 bytes of UTF-8, or null.
    const char *device = nullptr;
    // HOSTKV_ACQUIRE_ALL, or 0.
    std::uint32_t flags = 0;

    // As C takes it.
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
    // Walks the items.
    using iterator = ItemIterator<Lease, LeaseItem>;
    // The same: an item is a value.
    using const_iterator = iterator;
    // What it walks.
    using value_type = LeaseItem;

    // Holds nothing.
    Lease() noexcept = default;
    // Owns a handle of C.
    explicit Lease(hostkv_lease *owned) noexcept : handle_(owned) {}

    // Keys that were asked. -> hostkv_lease_get_count
    std::size_t size() const noexcept { return hostkv_lease_get_count(handle_.get()); }
    // Whether it holds nothing.
    bool empty() const noexcept { return size() == 0; }
    // Leading keys that are pinned: the cached prefix. -> hostkv_lease_get_prefix_count
    std::size_t prefix_count() const noexcept { return hostkv_lease_get_prefix_count(handle_.get()); }

    // One key; an index past the end says invalid_argument. -> hostkv_lease_get_span
    LeaseItem operator[](std::size_t index) const noexcept {
        hostkv_span span{};
        LeaseItem item;
        item.status = to_status(hostkv_lease_get_span(handle_.get(), index, &span));
        if (item) item.span = ReadSpan(span.data, span.len_bytes);
        return item;
    }
    // At the first.
    iterator begin() const noexcept { return iterator(this, 0); }
    // Behind the last.
    iterator end() const noexcept { return iterator(this, static_cast<std::ptrdiff_t>(size())); }

    // false: the lease expired, and what was read since the last true is void.
    // -> hostkv_lease_check
    Returned<bool> check() const { return detail::verdict(hostkv_lease_check(handle_.get())); }
    // The same verdict; ends the lease whatever it says. -> hostkv_lease_release
    Returned<bool> release() { return detail::verdict(hostkv_lease_release(handle_.release())); }

    // The handle, for functions of C; stays owned by this value.
    hostkv_lease *get() const noexcept { return handle_.get(); }
    // Whether it holds anything.
    explicit operator bool() const noexcept { return handle_ != nullptr; }

private:
    struct End {
        void operator()(hostkv_lease *lease) const noexcept { static_cast<void>(hostkv_lease_release(lease)); }
    };
    std::unique_ptr<hostkv_lease, End> handle_;
};

// ------------------------------------------------------------------------------------------- prefetch

// Keys on their way into the pool out of the daemon's tiers, and kept there until the end. It pins nothing: acquire what
// it kept. One thread at a time uses it.
class Prefetch {
public:
    // Holds nothing.
    Prefetch() noexcept = default;
    // Owns a handle of C.
    explicit Prefetch(hostkv_prefetch *owned) noexcept : handle_(owned) {}

    // The number of leading keys that are in the pool now; nothing when it is not over after `timeout_ms`, then ask again.
    // -> hostkv_prefetch_wait
    Returned<std::optional<std::size_t>> wait(std::uint32_t timeout_ms) {
        std::size_t prefix_count = 0;
        const Status status = to_status(hostkv_prefetch_wait(handle_.get(), timeout_ms, &prefix_count));
        if (status == Status::timeout) return std::optional<std::size_t>();
        if (status != Status::ok) return detail::fault<std::optional<std::size_t>>(status);
        return std::optional<std::size_t>(prefix_count);
    }
    // What it kept may be evicted again. The destructor does this too, and ignores how it went.
    // -> hostkv_prefetch_end
    Returned<void> end() { return detail::checked(hostkv_prefetch_end(handle_.release())); }

    // The handle, for functions of C; stays owned by this value.
    hostkv_prefetch *get() const noexcept { return handle_.get(); }
    // Whether it holds anything.
    explicit operator bool() const noexcept { return handle_ != nullptr; }

private:
    struct End {
        void operator()(hostkv_prefetch *prefetch) const noexcept { static_cast<void>(hostkv_prefetch_end(prefetch)); }
    };
    std::unique_ptr<hostkv_prefetch, End> handle_;
};

// ---------------------------------------------------------------------------------------- reservation

// Below: a reservation goes on with the next items of one.
class Keyspace;

// Places to write, unseen by readers until commit. A range of ReserveItem, one for each item asked.
class Reservation {
public:
    // Walks the items.
    using iterator = ItemIterator<Reservation, ReserveItem>;
    // The same: an item is a value.
    using const_iterator = iterator;
    // What it walks.
    using value_type = ReserveItem;

    // Holds nothing.
    Reservation() noexcept = default;
    // Owns a handle of C.
    explicit Reservation(hostkv_reservation *owned) noexcept : handle_(owned) {}

    // Items that were asked. -> hostkv_reservation_get_count
    std::size_t size() const noexcept { return hostkv_reservation_get_count(handle_.get()); }
    // Whether it holds nothing.
    bool empty() const noexcept { return size() == 0; }

    // One item; an index past the end says invalid_argument. -> hostkv_reservation_get_span
    ReserveItem operator[](std::size_t index) const noexcept {
        hostkv_span_mut span{};
        ReserveItem item;
        item.status = to_status(hostkv_reservation_get_span(handle_.get(), index, &span));
        if (item) item.span = WriteSpan(span.data, span.len_bytes);
        return item;
    }
    // At the first.
    iterator begin() const noexcept { return iterator(this, 0); }
    // Behind the last.
    iterator end() const noexcept { return iterator(this, static_cast<std::ptrdiff_t>(size())); }

    // Waits for one that was made with HOSTKV_RESERVE_NO_WAIT; false when it is not there after `timeout_ms`, then ask again.
    // -> hostkv_reservation_wait
    Returned<bool> wait(std::uint32_t timeout_ms) {
        const Status status = to_status(hostkv_reservation_wait(handle_.get(), timeout_ms));
        if (status != Status::ok && status != Status::timeout) return detail::fault<bool>(status);
        return status == Status::ok;
    }

    // Makes all granted items readable. Ends the reservation, like the next three, whatever comes of it.
    // -> hostkv_reservation_commit
    Returned<void> commit() { return detail::checked(hostkv_reservation_commit(handle_.release())); }
    // The same, and pins them for reading; the lease has this reservation's order.
    // -> hostkv_reservation_commit_and_acquire
    Returned<Lease> commit_and_acquire() {
        hostkv_lease *lease = nullptr;
        const Status status = to_status(hostkv_reservation_commit_and_acquire(handle_.release(), &lease));
        if (status != Status::ok) return detail::fault<Lease>(status);
        return Lease(lease);
    }
    // The same, and reserves the next items in one round trip; with an error nothing is reserved.
    // -> hostkv_reservation_commit_and_reserve
    inline Returned<Reservation> commit_and_reserve(const Keyspace &keyspace, View<hostkv_reserve_item> items,
                                                    const Request &request = {});
    // Gives everything back. The destructor does this too, and ignores how it went. -> hostkv_reservation_abort
    Returned<void> abort() { return detail::checked(hostkv_reservation_abort(handle_.release())); }

    // The handle, for functions of C; stays owned by this value.
    hostkv_reservation *get() const noexcept { return handle_.get(); }
    // Whether it holds anything.
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

// Which keyspace to open.
struct KeyspaceOptions {
    // Which model and layout: 1 to 144 bytes of UTF-8.
    std::string model_name;
    // Which tenant: at most 128 bytes of UTF-8.
    std::string cache_salt;
    // The caller's number for dtype, shape, layer count and quantisation.
    std::uint64_t layout_fingerprint = 0;
    // 0: the daemon's chunk size.
    std::uint32_t tokens_per_key = 0;
};

// The keys of one model and tenant. Made by Session::open_keyspace; not to be used after that session's end.
class Keyspace {
public:
    // Of no session.
    Keyspace() noexcept = default;
    // A number that hostkv_session_open_keyspace gave.
    Keyspace(const hostkv_session *session, hostkv_keyspace number) noexcept : session_(session), number_(number) {}
    // The other one then is of no session.
    Keyspace(Keyspace &&other) noexcept : session_(std::exchange(other.session_, nullptr)), number_(other.number_) {}
    // The other one then is of no session.
    Keyspace &operator=(Keyspace &&other) noexcept {
        session_ = std::exchange(other.session_, nullptr);
        number_ = other.number_;
        return *this;
    }

    // Space for the longest leading run of new keys that fits. -> hostkv_session_reserve
    Returned<Reservation> reserve(View<hostkv_reserve_item> items, const Request &request = {}) const {
        const hostkv_request c_request = request.c_struct();
        hostkv_reservation *reservation = nullptr;
        const Status status = to_status(
            hostkv_session_reserve(session_, number_, items.data(), items.size(), &c_request, &reservation));
        if (status != Status::ok) return detail::fault<Reservation>(status);
        return Reservation(reservation);
    }

    // Pins the leading run of present keys; with HOSTKV_ACQUIRE_ALL every present key. -> hostkv_session_acquire
    Returned<Lease> acquire(View<Key> keys, const Request &request = {}) const {
        const hostkv_request c_request = request.c_struct();
        hostkv_lease *lease = nullptr;
        const Status status =
            to_status(hostkv_session_acquire(session_, number_, keys.data(), keys.size(), &c_request, &lease));
        if (status != Status::ok) return detail::fault<Lease>(status);
        return Lease(lease);
    }

    // Has the longest prefix of these keys brought into the pool out of the daemon's tiers, and does not wait for it.
    Returned<Prefetch> prefetch(View<Key> keys, const Request &request = {}) const {
        const hostkv_request c_request = request.c_struct();
        hostkv_prefetch *prefetch = nullptr;
        const Status status =
            to_status(hostkv_session_prefetch(session_, number_, keys.data(), keys.size(), &c_request, &prefetch));
        if (status != Status::ok) return detail::fault<Prefetch>(status);
        return Prefetch(prefetch);
    }

    // How many leading keys are present, without a pin. `ret_present`, if not null, gets one byte a key.
    // -> hostkv_session_lookup
    Returned<std::size_t> lookup(View<Key> keys, std::uint8_t *ret_present = nullptr) const {
        std::size_t prefix_count = 0;
        const Status status = to_status(
            hostkv_session_lookup(session_, number_, keys.data(), keys.size(), &prefix_count, ret_present));
        if (status != Status::ok) return detail::fault<std::size_t>(status);
        return prefix_count;
    }

    // Unpublishes the keys. One element a key: whether it was there. -> hostkv_session_remove
    Returned<std::vector<bool>> remove(View<Key> keys) const {
        std::vector<std::uint8_t> removed(keys.size() == 0 ? 1 : keys.size());
        const Status status =
            to_status(hostkv_session_remove(session_, number_, keys.data(), keys.size(), removed.data()));
        if (status != Status::ok) return detail::fault<std::vector<bool>>(status);
        return std::vector<bool>(removed.begin(), removed.begin() + static_cast<std::ptrdiff_t>(keys.size()));
    }

    // Its number, for functions of C.
    hostkv_keyspace number() const noexcept { return number_; }

private:
    const hostkv_session *session_ = nullptr;
    hostkv_keyspace number_ = 0;
};

// Commits and reserves the next items; here, because it looks into the keyspace.
inline Returned<Reservation> Reservation::commit_and_reserve(const Keyspace &keyspace, View<hostkv_reserve_item> items,
                                                             const Request &request) {
    const hostkv_request c_request = request.c_struct();
    hostkv_reservation *reservation = nullptr;
    const Status status = to_status(hostkv_reservation_commit_and_reserve(
        handle_.release(), keyspace.number(), items.data(), items.size(), &c_request, &reservation));
    if (status != Status::ok) return detail::fault<Reservation>(status);
    return Reservation(reservation);
}

// -------------------------------------------------------------------------------------------- session

// How to open a session; as it stands, with the usual daemon.
struct SessionOptions {
    // Empty: HOSTKV_SOCKET, then the usual places.
    std::string socket_path;
    // What the daemon calls this client; empty: the library's choice.
    std::string client_name;
    // HOSTKV_SESSION_READ_ONLY and its like.
    std::uint32_t flags = 0;
    // Keys that may be pinned at once; 0: the default.
    std::uint32_t pin_slot_count = 0;
    // How long a call may wait for the daemon; 0: the default.
    std::uint32_t timeout_ms = 0;
};

// One process's connection to the pool.
class Session {
public:
    // Of no daemon.
    Session() noexcept = default;
    // Owns a handle of C.
    explicit Session(hostkv_session *owned) noexcept : handle_(owned) {}

    // Connects. -> hostkv_session_config_init, hostkv_session_open
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

    // The keys of one model and tenant. -> hostkv_session_open_keyspace
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

    // What the daemon granted and what its limits are. -> hostkv_session_get_info
    Returned<hostkv_session_info> info() const {
        hostkv_session_info info{};
        info.struct_size = static_cast<std::uint32_t>(sizeof info);
        const Status status = to_status(hostkv_session_get_info(handle_.get(), &info));
        if (status != Status::ok) return detail::fault<hostkv_session_info>(status);
        return info;
    }

    // The pool's figures now. -> hostkv_session_get_stats
    Returned<hostkv_stats> stats() const {
        hostkv_stats stats{};
        stats.struct_size = static_cast<std::uint32_t>(sizeof stats);
        const Status status = to_status(hostkv_session_get_stats(handle_.get(), &stats));
        if (status != Status::ok) return detail::fault<hostkv_stats>(status);
        return stats;
    }

    // The whole payload mapping, to register it for DMA; `which` is HOSTKV_MAPPING_READ or HOSTKV_MAPPING_WRITE.
    // -> hostkv_session_get_mapping
    Returned<WriteSpan> mapping(std::uint32_t which) const {
        hostkv_span_mut span{};
        const Status status = to_status(hostkv_session_get_mapping(handle_.get(), which, &span));
        if (status != Status::ok) return detail::fault<WriteSpan>(status);
        return WriteSpan(span.data, span.len_bytes);
    }

    // Becomes readable when the daemon has ended; to wait on, never to read or close. -> hostkv_session_get_fd
    int fd() const noexcept { return hostkv_session_get_fd(handle_.get()); }

    // Waits until every commit of this session made before the call is readable. -> hostkv_session_flush
    Returned<void> flush() const { return detail::checked(hostkv_session_flush(handle_.get())); }

    // Removes every key of every keyspace this session opened, or with HOSTKV_CLEAR_ALL_KEYSPACES every key there
    // is, and says how many. -> hostkv_session_clear
    Returned<std::uint64_t> clear(std::uint32_t flags = 0) const {
        std::uint64_t removed_count = 0;
        const Status status = to_status(hostkv_session_clear(handle_.get(), flags, &removed_count));
        if (status != Status::ok) return detail::fault<std::uint64_t>(status);
        return removed_count;
    }

    // Refuses further work. The destructor does this too, and ignores how it went. -> hostkv_session_close
    Returned<void> close() { return detail::checked(hostkv_session_close(handle_.release())); }

    // The handle, for functions of C; stays owned by this value.
    hostkv_session *get() const noexcept { return handle_.get(); }
    // Whether it holds anything.
    explicit operator bool() const noexcept { return handle_ != nullptr; }

private:
    struct End {
        void operator()(hostkv_session *session) const noexcept { static_cast<void>(hostkv_session_close(session)); }
    };
    std::unique_ptr<hostkv_session, End> handle_;
};

} // inline namespace
} // namespace hostkv

// Compares error codes with a Status.
template <>
struct std::is_error_code_enum<hostkv::Status> : std::true_type {};
#if defined(__cpp_lib_ranges)
// A span owns nothing: its iterators outlive it,
template <class Byte>
inline constexpr bool std::ranges::enable_borrowed_range<hostkv::BasicSpan<Byte>> = true;
// and it is copied as a view is.
template <class Byte>
inline constexpr bool std::ranges::enable_view<hostkv::BasicSpan<Byte>> = true;
#endif

#endif
