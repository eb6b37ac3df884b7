// gpu.cpp: gather and scatter between a paged KV cache on a GPU and the pool, by the copy engines.
//
// UNTESTED ON A GPU. Here it is compiled against stand-in/cuda_runtime.h, which copies on the host, and run on
// that: this checks the addresses and the order of the calls, not CUDA. cudaMemcpyBatchAsync is that of CUDA 13.
//
//     GPU:   layers[l].k and .v, each an array of blocks; a request's blocks lie anywhere in it
//     pool:  one object a chunk: [layer 0: K of its blocks, V of its blocks][layer 1: ...]...
//
// The parts between [name] and [end] stand in docs/integration.md, line by line.

#include <cuda_runtime.h>
#include <hostkv.hpp>

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr std::size_t blocks_per_chunk = 16; // 16 blocks of 16 tokens = a chunk of 256

void checked(cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(std::string("cuda: ") + cudaGetErrorString(error));
}

struct PagedLayer {
    std::byte *k = nullptr, *v = nullptr; // device memory, block after block
};

struct PagedCache {
    std::vector<PagedLayer> layers;
    std::size_t block_bytes = 0; // of K, and of V, in one layer
    std::size_t chunk_bytes() const { return layers.size() * 2 * blocks_per_chunk * block_bytes; }
};

// [register]
// A mapping of the pool that the GPU's copy engines may use, page-locked in pieces: drivers refuse, or take
// minutes for, one registration of a whole large pool.
class Registration {
public:
    Registration(const hostkv::Session &session, std::uint32_t which) {
        const hostkv::WriteSpan mapping = session.mapping(which);
        const unsigned flags = which == HOSTKV_MAPPING_READ ? cudaHostRegisterReadOnly : cudaHostRegisterDefault;
        for (std::size_t at = 0; at < mapping.size(); at += piece_bytes) {
            std::byte *piece = mapping.data() + at;
            checked(cudaHostRegister(piece, std::min(piece_bytes, mapping.size() - at), flags));
            pieces_.push_back(piece);
        }
    }
    // Before the session's last handle ends, since that unmaps the memory.
    ~Registration() {
        for (std::byte *piece : pieces_) cudaHostUnregister(piece);
    }
    Registration(const Registration &) = delete;
    Registration &operator=(const Registration &) = delete;

private:
    static constexpr std::size_t piece_bytes = std::size_t(1) << 30;
    std::vector<std::byte *> pieces_;
};
// [end]

// [batch]
// Many small copies in one call. `stream` is not the legacy default stream, which batches refuse.
class CopyBatch {
public:
    void add(void *to, const void *from, std::size_t len_bytes) {
        to_.push_back(to);
        from_.push_back(from);
        len_bytes_.push_back(len_bytes);
    }
    // One chunk's object on one side, the blocks of all layers on the other.
    template <class Object, class Copy>
    static void walk(const PagedCache &cache, const std::size_t *blocks, Object *object, Copy copy) {
        for (const PagedLayer &layer : cache.layers)
            for (std::byte *pages : {layer.k, layer.v})
                for (std::size_t i = 0; i < blocks_per_chunk; ++i) {
                    copy(object, pages + blocks[i] * cache.block_bytes);
                    object += cache.block_bytes;
                }
    }
    void gather(const PagedCache &cache, const std::size_t *blocks, std::byte *object) {
        walk(cache, blocks, object, [&](std::byte *in_pool, const std::byte *on_gpu) { add(in_pool, on_gpu, cache.block_bytes); });
    }
    void scatter(const PagedCache &cache, const std::size_t *blocks, const std::byte *object) {
        walk(cache, blocks, object, [&](const std::byte *in_pool, std::byte *on_gpu) { add(on_gpu, in_pool, cache.block_bytes); });
    }
    // Starts the copies and waits: the pool's bytes are not to be committed, nor a lease released, before that.
    void run(cudaStream_t stream) {
        if (to_.empty()) return;
        cudaMemcpyAttributes attributes{};
        attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
        std::size_t first = 0; // the attributes hold from copy 0 on
#if CUDART_VERSION >= 13000
        checked(cudaMemcpyBatchAsync(to_.data(), from_.data(), len_bytes_.data(), to_.size(), &attributes, &first, 1, stream));
#else
#error "before CUDA 13 cudaMemcpyBatchAsync has one more argument, failIdx, and pointers that are not const"
#endif
        checked(cudaStreamSynchronize(stream));
    }

private:
    std::vector<void *> to_;
    std::vector<const void *> from_;
    std::vector<std::size_t> len_bytes_;
};
// [end]

// [gpu-store]
// Stores chunks; blocks[c * blocks_per_chunk ...] are those of chunk c. Says how many were new.
std::size_t store(const hostkv::Keyspace &keyspace, const PagedCache &cache, const std::vector<hostkv::Key> &keys,
                  const std::vector<std::size_t> &blocks, cudaStream_t stream) {
    std::vector<hostkv_reserve_item> items;
    for (const hostkv::Key &key : keys) items.push_back({key, cache.chunk_bytes()});
    auto reservation = keyspace.reserve(items);
    CopyBatch copies;
    std::size_t written = 0;
    for (std::size_t chunk = 0; chunk < keys.size(); ++chunk)
        if (auto item = reservation[chunk]) {
            copies.gather(cache, &blocks[chunk * blocks_per_chunk], item.span.data());
            ++written;
        }
    copies.run(stream); // an exception here aborts the reservation: nothing half copied becomes readable
    reservation.commit();
    return written;
}
// [end]

// [gpu-load]
// Loads the longest cached run of leading chunks, and says how many that are.
std::size_t load(const hostkv::Keyspace &keyspace, const PagedCache &cache, const std::vector<hostkv::Key> &keys,
                 const std::vector<std::size_t> &blocks, cudaStream_t stream) {
    auto lease = keyspace.acquire(keys);
    CopyBatch copies;
    std::size_t loaded = 0;
    for (const hostkv::LeaseItem &item : lease) {
        if (!item || item.span.size() != cache.chunk_bytes()) break;
        copies.scatter(cache, &blocks[loaded * blocks_per_chunk], item.span.data());
        ++loaded;
    }
    copies.run(stream);
    return lease.release() ? loaded : 0; // false: it expired, and the blocks hold bytes of nobody knows what
}
// [end]

// Two layers of 64 blocks each; block b of a layer is filled with a byte of its own, or with 0.
struct Pages {
    std::vector<std::byte> memory;
    PagedCache cache;

    explicit Pages(bool is_filled) {
        constexpr std::size_t layer_count = 2, block_count = 64, block_bytes = 512;
        memory.resize(layer_count * 2 * block_count * block_bytes);
        cache.block_bytes = block_bytes;
        for (std::size_t at = 0; is_filled && at < memory.size(); ++at) memory[at] = std::byte(at / block_bytes % 251 + 1);
        for (std::size_t layer = 0; layer < layer_count; ++layer) {
            std::byte *begin = memory.data() + layer * 2 * block_count * block_bytes;
            cache.layers.push_back({begin, begin + block_count * block_bytes});
        }
    }
};

// Stores two chunks from scattered blocks, loads them into other blocks, and compares block by block.
void round_trip() {
    auto session = hostkv::Session::open();
    hostkv::KeyspaceOptions layout;
    layout.model_name = "toy/gpu";
    layout.layout_fingerprint = 1;
    const auto keyspace = session.open_keyspace(layout);
    const Registration for_loads(session, HOSTKV_MAPPING_READ);
    const Registration for_stores(session, HOSTKV_MAPPING_WRITE);
    cudaStream_t stream = nullptr; // cudaStreamCreate on a GPU

    const std::vector<hostkv::Key> keys = {hostkv::key_from_bytes("gpu chunk 0"), hostkv::key_from_bytes("gpu chunk 1")};
    keyspace.remove(keys);
    std::vector<std::size_t> from, to;
    for (std::size_t i = 0; i < keys.size() * blocks_per_chunk; ++i) {
        from.push_back((i * 7 + 3) % 64);
        to.push_back((i * 5 + 1) % 64);
    }
    const Pages source(true), target(false);
    if (store(keyspace, source.cache, keys, from, stream) != keys.size()) throw std::runtime_error("not all was stored");
    if (load(keyspace, target.cache, keys, to, stream) != keys.size()) throw std::runtime_error("not all was loaded");
    for (std::size_t layer = 0; layer < source.cache.layers.size(); ++layer)
        for (std::size_t i = 0; i < from.size(); ++i)
            for (bool is_k : {true, false}) {
                const PagedLayer &a = source.cache.layers[layer], &b = target.cache.layers[layer];
                const std::size_t len_bytes = source.cache.block_bytes;
                const std::byte *stored = (is_k ? a.k : a.v) + from[i] * len_bytes, *loaded = (is_k ? b.k : b.v) + to[i] * len_bytes;
                if (!std::equal(stored, stored + len_bytes, loaded)) throw std::runtime_error("a block differs");
            }
    std::printf("%zu chunks gathered, stored, loaded and scattered, all blocks equal (on the stand-in, not on a GPU)\n", keys.size());
}

} // namespace

int main() {
    try {
        round_trip();
        return 0;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "gpu: %s\n", error.what());
        return 1;
    }
}
