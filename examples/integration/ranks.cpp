// ranks.cpp: an engine of several processes. A scheduler finds the cached prefix; one worker for each rank reads
// and stores its own share of it. As serve.c it answers each number on standard input with one line:
//
//     2 ranks: loaded 8 of 16 chunks, stored 16 objects, digest 5d0c...
//
//     scheduler                                worker r
//     acquires all ranks' keys         ---->   told how many chunks are cached
//     holds its lease                          acquires its own keys, says so
//     releases when all have theirs    <----   copies, computes the rest, stores, answers
//
// The parts between [name] and [end] stand in docs/integration.md, line by line.

#include "engine.h"

#include <hostkv.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <vector>

namespace {

constexpr std::size_t prompt_tokens = 16 * CHUNK_TOKENS + 1;
constexpr std::uint32_t world_size = 2;

// The engine's own channel between scheduler and worker: two pipes.
class Channel {
public:
    Channel() {
        if (pipe(down_) != 0 || pipe(up_) != 0) throw std::runtime_error("no pipe");
    }
    void be_scheduler() { shut(down_[0]), shut(up_[1]); }
    void be_worker() { shut(down_[1]), shut(up_[0]); }
    void hang_up() { shut(down_[1]); }

    template <class T>
    void tell(const T &value) { put(down_[1], value); }
    template <class T>
    bool hear(T &value) { return get(down_[0], value); }
    template <class T>
    void answer(const T &value) { put(up_[1], value); }
    template <class T>
    bool await(T &value) { return get(up_[0], value); }

private:
    static void shut(int &fd) {
        if (fd >= 0) close(fd);
        fd = -1;
    }
    template <class T>
    static void put(int fd, const T &value) {
        if (write(fd, &value, sizeof value) != static_cast<ssize_t>(sizeof value)) throw std::runtime_error("the other side is gone");
    }
    template <class T>
    static bool get(int fd, T &value) { return read(fd, &value, sizeof value) == static_cast<ssize_t>(sizeof value); }

    int down_[2] = {-1, -1}, up_[2] = {-1, -1};
};

struct Order {
    std::uint32_t seed = 0;
    std::uint64_t cached_chunks = 0;
};
struct Report {
    std::uint64_t loaded_chunks = 0, stored_chunks = 0, digest = 0;
};

struct Prompt {
    std::vector<std::uint32_t> tokens = std::vector<std::uint32_t>(prompt_tokens);
    std::vector<hostkv::Key> chunks; // the last token is always computed

    explicit Prompt(std::uint32_t seed) {
        engine_make_prompt(seed, tokens.data(), tokens.size());
        chunks = hostkv::chunk_keys({tokens.data(), tokens.size() - 1}, CHUNK_TOKENS);
    }
};

// [keyspace]
hostkv::KeyspaceOptions layout() {
    hostkv::KeyspaceOptions options;
    options.model_name = "toy/demo-7b-tp2"; // another split into ranks is another layout
    options.tokens_per_key = CHUNK_TOKENS;
    options.layout_fingerprint = 0x7001'0002;
    return options;
}
// [end]

// [find]
// The leading chunks that every rank has, and the lease that keeps them until the workers have their own.
struct Found {
    hostkv::Lease lease;
    std::size_t chunk_count = 0;
};

Found find(const hostkv::Keyspace &keyspace, const std::vector<hostkv::Key> &chunks) {
    std::vector<hostkv::Key> keys; // chunk 0 rank 0, chunk 0 rank 1, chunk 1 rank 0, ...
    for (hostkv::Key key : chunks)
        for (std::uint32_t rank = 0; rank < world_size; ++rank) {
            key.kv_rank = rank;
            keys.push_back(key);
        }
    Found found;
    found.lease = keyspace.acquire(keys); // more than info().max_batch_keys: several calls, cut between chunks
    found.chunk_count = found.lease.prefix_count() / world_size; // a chunk is a hit when all ranks have it
    return found;
}
// [end]

// [worker]
void work(Channel &channel, std::uint32_t rank) {
    auto session = hostkv::Session::open({"", "toy-worker-" + std::to_string(rank)});
    auto keyspace = session.open_keyspace(layout());
    toy_engine engine;
    if (engine_init(&engine, prompt_tokens, rank) != 0) throw std::runtime_error("no memory");

    Order order;
    while (channel.hear(order)) {
        Prompt prompt(order.seed);
        for (hostkv::Key &key : prompt.chunks) key.kv_rank = rank;
        engine_reset(&engine);

        hostkv::Lease lease;
        if (order.cached_chunks > 0) lease = keyspace.acquire({prompt.chunks.data(), order.cached_chunks});
        channel.answer(rank); // the scheduler may let go of its lease now

        Report report;
        for (const hostkv::LeaseItem &item : lease) {
            if (!item || item.span.size() != CHUNK_BYTES) break;
            engine_scatter(&engine, report.loaded_chunks++, item.span.data());
        }
        if (lease && !lease.release()) report.loaded_chunks = 0; // it expired: what was copied is void
        engine.token_count = report.loaded_chunks * CHUNK_TOKENS;

        engine_prefill(&engine, prompt.tokens.data(), prompt.tokens.size());
        report.digest = engine_digest(&engine);

        std::vector<hostkv_reserve_item> items;
        for (std::size_t chunk = report.loaded_chunks; chunk < prompt.chunks.size(); ++chunk)
            items.push_back({prompt.chunks[chunk], CHUNK_BYTES});
        if (!items.empty()) {
            auto reservation = keyspace.reserve(items);
            for (std::size_t i = 0; i < items.size(); ++i)
                if (auto item = reservation[i]) {
                    engine_gather(&engine, report.loaded_chunks + i, item.span.data());
                    ++report.stored_chunks;
                }
            reservation.commit();
        }
        channel.answer(report);
    }
    engine_free(&engine);
    session.close();
}
// [end]

// [schedule]
void schedule(std::vector<Channel> &workers) {
    auto session = hostkv::Session::open({"", "toy-scheduler", HOSTKV_SESSION_READ_ONLY});
    auto keyspace = session.open_keyspace(layout());
    Order order;
    while (std::scanf("%" SCNu32, &order.seed) == 1) {
        const Prompt prompt(order.seed);
        Found found = find(keyspace, prompt.chunks);
        order.cached_chunks = found.chunk_count;
        for (Channel &worker : workers) worker.tell(order);

        std::uint32_t rank = 0;
        for (Channel &worker : workers)
            if (!worker.await(rank)) throw std::runtime_error("a worker is gone");
        found.lease.release(); // not before: in a gap without any lease the keys could be evicted

        std::uint64_t stored = 0, digest = 1;
        for (Channel &worker : workers) {
            Report report;
            if (!worker.await(report)) throw std::runtime_error("a worker is gone");
            stored += report.stored_chunks;
            digest = engine_mix(digest, report.digest);
        }
        std::printf("%u ranks: loaded %zu of %zu chunks, stored %" PRIu64 " objects, digest %016" PRIx64 "\n",
                    world_size, found.chunk_count, prompt.chunks.size(), stored, digest);
        std::fflush(stdout);
    }
    session.close();
}
// [end]

int reported(const char *who, const std::exception &error) {
    std::fprintf(stderr, "ranks: %s: %s\n", who, error.what());
    return 1;
}

} // namespace

// [fork]
int main() {
    // Fork first, open afterwards: a session belongs to the process that opened it.
    std::vector<Channel> workers(world_size);
    std::vector<pid_t> pids;
    for (std::uint32_t rank = 0; rank < world_size; ++rank) {
        const pid_t pid = fork();
        if (pid < 0) return reported("scheduler", std::runtime_error("fork failed"));
        if (pid == 0) {
            for (std::uint32_t other = 0; other < world_size; ++other)
                if (other != rank) workers[other].be_scheduler(), workers[other].hang_up();
            workers[rank].be_worker();
            int code = 0;
            try {
                work(workers[rank], rank);
            } catch (const std::exception &error) {
                code = reported("worker", error);
            }
            _exit(code);
        }
        pids.push_back(pid);
    }
    // [end]
    int code = 0;
    for (Channel &worker : workers) worker.be_scheduler();
    try {
        schedule(workers);
    } catch (const std::exception &error) {
        code = reported("scheduler", error);
    }
    for (Channel &worker : workers) worker.hang_up();
    for (const pid_t pid : pids) {
        int status = 0;
        if (waitpid(pid, &status, 0) != pid || status != 0) code = 1;
    }
    return code;
}
