// roundtrip.cpp: one object there and back through the pool, in C++17.
//
//     c++ -std=c++17 -Iinclude examples/roundtrip.cpp -Ltarget/release -lhostkv -Wl,-rpath,$PWD/target/release -o roundtrip
//     HOSTKV_SOCKET=/run/hostkv/hostkv.sock ./roundtrip
//
// Stores an object, finds it again, reads it where it lies, and lets go of it. Says what it did; exit
// code 0, or 1 and a sentence on standard error. Faults are exceptions; what belongs to one key is tested.
// The parts between [name] and [end] stand in README.md.

#include "hostkv.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace {

constexpr std::size_t object_bytes = 64 * 1024;

void expect(bool is_true, const char *sentence) {
    if (!is_true) throw std::runtime_error(sentence);
}

void round_trip() {
    auto session = hostkv::Session::open();
    hostkv::KeyspaceOptions layout;
    layout.model_name = "example/roundtrip";
    layout.layout_fingerprint = 1;
    const auto keyspace = session.open_keyspace(layout);
    const hostkv::Key key = hostkv::key_from_bytes("roundtrip.cpp");

    // An object of an earlier run would make the reserve say `exists`; this run shall write one.
    const bool was_there = keyspace.remove({key})[0];

    // [write-and-read]
    // Store: a place in shared memory, filled in place, then made readable.
    auto reservation = keyspace.reserve({{key, object_bytes}});
    const hostkv::ReserveItem place = reservation[0];
    expect(bool(place), hostkv::status_name(place.status));
    std::memset(place.span.data(), 'k', place.span.size());
    reservation.commit();
    std::printf("stored %zu bytes%s\n", object_bytes, was_there ? " in the place of an earlier run's object" : "");

    // Find: without taking it.
    expect(keyspace.lookup({key}) == 1, "the object is not there after its commit");
    std::printf("found it\n");

    // Read: the lease keeps the bytes where they are; nothing is copied.
    auto lease = keyspace.acquire({key});
    std::size_t equal = 0;
    for (const hostkv::LeaseItem &item : lease) {
        expect(bool(item), hostkv::status_name(item.status));
        const std::byte *end = item.span.data() + item.span.size();
        equal += static_cast<std::size_t>(std::count(item.span.data(), end, std::byte{'k'}));
    }
    expect(lease.release(), "the lease expired while it was read");
    // [end]
    expect(equal == object_bytes, "the bytes read are not the bytes written");
    std::printf("read %zu bytes in place, all as written, and released them\n", equal);
    session.close();
}

} // namespace

int main() {
    try {
        round_trip();
        return 0;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "roundtrip: %s\n", error.what());
        return 1;
    }
}
