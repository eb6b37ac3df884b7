// header_cpp.cpp: hostkv.h in C++. It stands first, so it must bring all it needs; its functions have C linkage
// and its structs are plain data. Compiled in every dialect of C++ that the header promises.

#include "hostkv.h"

#include <cstdint>
#include <type_traits>

extern "C" hostkv_status hostkv_session_close(hostkv_session *);

static_assert(std::is_same<decltype(&hostkv_lease_release), hostkv_status (*)(hostkv_lease *)>::value, "");
static_assert(std::is_same<decltype(&hostkv_session_get_fd), int (*)(const hostkv_session *)>::value, "");
static_assert(std::is_same<hostkv_keyspace, std::uint32_t>::value, "");
static_assert(sizeof(hostkv_status) == sizeof(int), "");

template <class T>
constexpr bool is_plain() {
    return std::is_standard_layout<T>::value && std::is_trivially_copyable<T>::value && std::is_trivially_default_constructible<T>::value;
}
static_assert(is_plain<hostkv_key>() && is_plain<hostkv_span>() && is_plain<hostkv_span_mut>() && is_plain<hostkv_reserve_item>(), "");
static_assert(is_plain<hostkv_session_config>() && is_plain<hostkv_keyspace_config>() && is_plain<hostkv_request>(), "");
static_assert(is_plain<hostkv_session_info>() && is_plain<hostkv_stats>(), "");

int main() {
    struct hostkv_key key = {};
    enum hostkv_status status = hostkv_key_from_bytes("cpp", 3, &key);
    hostkv_session *none = nullptr;
    const bool is_good = status == HOSTKV_STATUS_OK && key.chunk_hash_len == 3 && hostkv_abi_version() == HOSTKV_ABI_VERSION &&
                         hostkv_session_close(none) == HOSTKV_STATUS_OK;
    return is_good ? 0 : 1;
}
