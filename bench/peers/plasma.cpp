// Plasma's C++ client behind five C functions, for bench/src/peers/plasma.rs, which loads them at run time.
//
// Keys are Plasma's object ids of 20 bytes, one behind the other. Every function returns a negative number when the
// client fails, and prints why.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <plasma/client.h>
#include <plasma/common.h>

namespace {

constexpr std::size_t id_bytes = 20;

struct Client {
    plasma::PlasmaClient client;
};

bool failed(const arrow::Status &status) {
    if (!status.ok()) std::fprintf(stderr, "plasma: %s\n", status.ToString().c_str());
    return !status.ok();
}

std::vector<plasma::ObjectID> ids_of(const std::uint8_t *keys, std::size_t count) {
    std::vector<plasma::ObjectID> ids(count);
    for (std::size_t i = 0; i < count; ++i) std::memcpy(ids[i].mutable_data(), keys + i * id_bytes, id_bytes);
    return ids;
}

} // namespace

extern "C" {

Client *bench_plasma_open(const char *socket) {
    auto client = std::make_unique<Client>();
    return failed(client->client.Connect(socket)) ? nullptr : client.release();
}

void bench_plasma_close(Client *client) {
    delete client;
}

// Deletes the objects that are there.
std::int64_t bench_plasma_delete(Client *client, const std::uint8_t *keys, std::size_t count) {
    return failed(client->client.Delete(ids_of(keys, count))) ? -1 : 0;
}

// Stores these bytes under each key: create, copy, seal, release.
std::int64_t bench_plasma_store(Client *client, const std::uint8_t *keys, std::size_t count, const std::uint8_t *bytes, std::size_t length) {
    for (const auto &id : ids_of(keys, count)) {
        std::shared_ptr<arrow::Buffer> buffer;
        if (failed(client->client.Create(id, static_cast<std::int64_t>(length), nullptr, 0, &buffer))) return -1;
        std::memcpy(buffer->mutable_data(), bytes, length);
        if (failed(client->client.Seal(id)) || failed(client->client.Release(id))) return -1;
    }
    return 0;
}

// How many of the objects are there, by the call for that, which takes one at a time.
std::int64_t bench_plasma_contains(Client *client, const std::uint8_t *keys, std::size_t count) {
    std::int64_t found = 0;
    for (const auto &id : ids_of(keys, count)) {
        bool is_there = false;
        if (failed(client->client.Contains(id, &is_there))) return -1;
        found += is_there ? 1 : 0;
    }
    return found;
}

// How many of the objects are there, with a view of each that ends with the call.
std::int64_t bench_plasma_view(Client *client, const std::uint8_t *keys, std::size_t count) {
    std::vector<plasma::ObjectBuffer> objects;
    if (failed(client->client.Get(ids_of(keys, count), 0, &objects))) return -1;
    std::int64_t found = 0;
    for (const auto &object : objects) found += object.data ? 1 : 0;
    return found;
}

// The sum of an object's words; -1 also when it has another length.
std::int64_t bench_plasma_sum(Client *client, const std::uint8_t *key, std::size_t length, std::uint64_t *sum) {
    std::vector<plasma::ObjectBuffer> objects;
    if (failed(client->client.Get(ids_of(key, 1), 0, &objects))) return -1;
    if (!objects[0].data || objects[0].data->size() != static_cast<std::int64_t>(length)) return -1;
    std::uint64_t total = 0;
    const std::uint8_t *data = objects[0].data->data();
    for (std::size_t at = 0; at + 8 <= length; at += 8) {
        std::uint64_t word;
        std::memcpy(&word, data + at, 8);
        total += word;
    }
    *sum = total;
    return 0;
}

} // extern "C"
