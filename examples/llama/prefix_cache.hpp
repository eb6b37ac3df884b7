// prefix_cache.hpp: a prompt's chunks between llama.cpp and the pool. What an engine adds to use hostkv.
//
//     prompt -> chunk_keys -> acquire -> [span, span, …] -> Context::import_chunk     restore
//     Context -> chunk_bytes -> reserve -> [span, span, …] <- Context::export_chunk   store, then commit
//
// The engine's copy function gets the span itself, so each byte is copied once, between the engine's KV
// tensors and shared memory.
//
// The cache never costs a request. Whatever fails (no daemon, a daemon that dies in between, a full pool, a
// lease that expires) is one line on standard error, and the request goes on as if the rest were not
// cached; after a fault the cache is not asked again. A long-running engine would open a new session after
// a while, with back-off.

#ifndef HOSTKV_LLAMA_PREFIX_CACHE_HPP
#define HOSTKV_LLAMA_PREFIX_CACHE_HPP

#include "engine.hpp"

#include <hostkv.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cctype>
#include <cerrno>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <functional>
#include <optional>

inline double now_seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// What one direction did for one prompt.
struct Transfer {
    std::size_t chunk_count = 0;
    std::uint64_t bytes = 0;
    double seconds = 0;
};

class PrefixCache {
public:
    // `socket_path` may be empty: then HOSTKV_SOCKET or the usual places.
    PrefixCache(const std::string &socket_path, const Model &model, const EngineOptions &options) {
        attempt("open", [&] {
            hostkv::SessionOptions session;
            session.socket_path = socket_path;
            session.client_name = "hostkv-llama";
            session_ = hostkv::Session::open(session);
            max_batch_keys_ = session_.info().max_batch_keys;
            keyspace_ = session_.open_keyspace(keyspace_options(model, options));
            is_usable_ = true;
        });
    }

    // Puts the longest cached run of leading chunks into an empty context; what tiers have is waited for this long.
    Transfer restore(Context &context, const std::vector<hostkv::Key> &keys, std::uint32_t prefetch_ms = 0) {
        Transfer done;
        const double begin = now_seconds();
        if (is_usable_) attempt("restore", [&] { restore_batches(context, keys, prefetch_ms, done); });
        // A batch that failed half way left chunks that are not in the account.
        context.truncate(done.chunk_count);
        done.seconds = now_seconds() - begin;
        return done;
    }

    // Stores the chunks from `first` on that the pool does not have yet.
    Transfer store(Context &context, const std::vector<hostkv::Key> &keys, std::size_t first) {
        Transfer done;
        const double begin = now_seconds();
        if (is_usable_) attempt("store", [&] { store_batches(context, keys, first, done); });
        done.seconds = now_seconds() - begin;
        return done;
    }

    // For what is not part of a request.
    const hostkv::Keyspace &keyspace() const { return keyspace_; }

private:
    static void report(const char *what, const char *sentence) {
        std::fprintf(stderr, "hostkv-llama: cache: %s: %s; going on without it.\n", what, sentence);
    }

    // The fence between the cache and the request: only the engine's own errors pass it.
    void attempt(const char *what, const std::function<void()> &work) {
        try {
            work();
        } catch (const hostkv::Error &error) {
            is_usable_ = false;
            report(what, error.what());
        }
    }

    // Pins of one session are bounded in number and bytes, so a long prompt takes several leases, each one
    // released before the next.
    void restore_batches(Context &context, const std::vector<hostkv::Key> &keys, std::uint32_t prefetch_ms, Transfer &done) {
        while (done.chunk_count < keys.size()) {
            const std::size_t asked = std::min<std::size_t>(keys.size() - done.chunk_count, max_batch_keys_);
            // Kept in the pool until the lease has its pins; what has not come in time is not waited for.
            hostkv::Prefetch prefetch;
            if (prefetch_ms > 0) {
                prefetch = keyspace_.prefetch({keys.data() + done.chunk_count, asked});
                static_cast<void>(prefetch.wait(prefetch_ms));
            }
            hostkv::Lease lease = keyspace_.acquire({keys.data() + done.chunk_count, asked});
            std::size_t restored = 0;
            std::uint64_t bytes = 0;
            hostkv::Status ended_by = hostkv::Status::ok;
            for (const hostkv::LeaseItem &item : lease) {
                ended_by = item.status;
                if (!item) break;
                if (!context.import_chunk(done.chunk_count + restored, item.span.data(), item.span.size())) {
                    report("restore", "llama.cpp refused a chunk's bytes");
                    ended_by = hostkv::Status::not_found;
                    break;
                }
                restored += 1;
                bytes += item.span.size();
            }
            // Only now is it certain that the bytes stayed what they were while they were read.
            if (!lease.release()) return report("restore", "the lease expired");
            done.chunk_count += restored;
            done.bytes += bytes;
            if (ended_by == hostkv::Status::quota && restored == 0) return report("restore", hostkv::status_name(ended_by));
            if (ended_by == hostkv::Status::not_found) return;
        }
    }

    // Reserved bytes of one session are bounded too: each round stores the leading run that was granted.
    void store_batches(Context &context, const std::vector<hostkv::Key> &keys, std::size_t first, Transfer &done) {
        while (first < keys.size()) {
            std::vector<hostkv_reserve_item> items;
            for (std::size_t chunk = first; chunk < keys.size() && items.size() < max_batch_keys_; ++chunk)
                items.push_back({keys[chunk], context.chunk_bytes()});
            hostkv::Reservation reservation = keyspace_.reserve(items);
            std::size_t settled = 0, written = 0;
            std::uint64_t bytes = 0;
            hostkv::Status ended_by = hostkv::Status::ok;
            for (const hostkv::ReserveItem &item : reservation) {
                if (item.status == hostkv::Status::no_space || item.status == hostkv::Status::quota) {
                    ended_by = item.status;
                    break;
                }
                // `exists` and `reserved`: another process was first; its bytes are as good as ours.
                if (item) {
                    // Leaving here aborts the reservation: nothing half written becomes readable.
                    if (!context.export_chunk(first + settled, item.span.data(), item.span.size()))
                        return report("store", "llama.cpp wrote less than it announced");
                    written += 1;
                    bytes += item.span.size();
                }
                settled += 1;
            }
            reservation.commit();
            done.chunk_count += written;
            done.bytes += bytes;
            first += settled;
            if (ended_by == hostkv::Status::no_space || (ended_by == hostkv::Status::quota && written == 0))
                return report("store", hostkv::status_name(ended_by));
        }
    }

    // The name says which model and layout for people; the fingerprint says it for certain.
    static hostkv::KeyspaceOptions keyspace_options(const Model &model, const EngineOptions &options) {
        const std::string layout = std::string(ggml_type_name(options.kv_type)) + (options.is_flash_attention ? "/flash" : "/plain");
        const std::string identity = "hostkv-llama 1, state " + std::to_string(LLAMA_STATE_SEQ_VERSION) + ", model " +
                                     file_digest(options.model_path) + " of " + std::to_string(llama_model_n_params(model.get())) +
                                     " parameters, " + layout + ", ubatch " + std::to_string(chunk_tokens) + ", swa full, " +
                                     llama_print_system_info(); // another processor's kernels may round differently
        const hostkv::Key digest = hostkv::key_from_bytes(identity);
        hostkv::KeyspaceOptions keyspace;
        keyspace.model_name = "llama.cpp/" + plain_name(options.model_path) + "/" + layout;
        keyspace.tokens_per_key = chunk_tokens;
        std::memcpy(&keyspace.layout_fingerprint, digest.chunk_hash, sizeof keyspace.layout_fingerprint);
        return keyspace;
    }

    // The file name in characters that any keyspace name may have, at most 64 of them.
    static std::string plain_name(const std::string &path) {
        std::string name = path.substr(path.find_last_of('/') + 1).substr(0, 64);
        for (char &letter : name)
            if (!std::isalnum(static_cast<unsigned char>(letter)) && letter != '.' && letter != '_') letter = '-';
        return name;
    }

    // The whole file's BLAKE3 in hex: two models of one shape differ only in their weights.
    static std::string file_digest(const std::string &path) {
        const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
        if (fd < 0) throw std::runtime_error("cannot open " + path + ": " + std::strerror(errno));
        struct stat status {};
        const int stat_code = fstat(fd, &status);
        const auto size = static_cast<std::size_t>(status.st_size);
        void *bytes = stat_code == 0 ? mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
        ::close(fd);
        if (bytes == MAP_FAILED) throw std::runtime_error("cannot map " + path + ": " + std::strerror(errno));
        const std::unique_ptr<void, std::function<void(void *)>> mapped(bytes, [size](void *p) { munmap(p, size); });
        const hostkv::Key digest = hostkv::key_from_bytes(bytes, size);
        std::string hex;
        for (std::uint32_t i = 0; i < digest.chunk_hash_len; ++i) {
            char pair[3];
            std::snprintf(pair, sizeof pair, "%02x", digest.chunk_hash[i]);
            hex += pair;
        }
        return hex;
    }

    hostkv::Session session_;
    hostkv::Keyspace keyspace_;
    std::size_t max_batch_keys_ = 0;
    bool is_usable_ = false;
};

#endif
