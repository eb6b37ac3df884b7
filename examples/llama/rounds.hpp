// rounds.hpp: how fast a prompt's KV bytes leave and enter the engine, beside bare copies of the same bytes.
//
//     round:  remove the chunks -> copy private bytes into their extents -> store them
//             -> copy their extents into private bytes -> restore them into the emptied context
//
// llama.cpp copies with memcpy, one tensor's part of a chunk at a time, so memcpy in pieces of that length is what
// bounds a store and a restore; hostkv_copy, whose streaming stores spare the destination's lines a read, is what an
// engine would get that lets others copy for it. Before each of them other bytes go through the caches, as others' work
// does between a store and a restore. All figures are medians of the rounds.

#ifndef HOSTKV_LLAMA_ROUNDS_HPP
#define HOSTKV_LLAMA_ROUNDS_HPP

#include "prefix_cache.hpp"

// Seconds of one direction.
struct CopyTimes {
    double engine = 0;
    double memcpy = 0;
    double hostkv_copy = 0;
};

struct RoundTimes {
    CopyTimes store, restore;
};

class Rounds {
public:
    // `keys` are those of the leading chunks of the context's sequence, all of which the pool has room for at once.
    Rounds(Context &context, PrefixCache &cache, const std::vector<hostkv::Key> &keys) : context_(context), cache_(cache), keys_(keys) {
        std::size_t bytes = 0;
        for (std::size_t chunk = 0; chunk < keys.size(); ++chunk) {
            items_.push_back({keys[chunk], context.chunk_bytes()});
            bytes += items_.back().len_bytes;
        }
        private_.assign(bytes, 1); // written, so that no copy meets a page for the first time
        other_.assign(other_bytes, 1);
    }

    // Leaves the context with the chunks alone.
    RoundTimes run(std::size_t count) {
        std::vector<RoundTimes> rounds;
        while (rounds.size() < count) rounds.push_back(round());
        const auto median = [&](CopyTimes RoundTimes::*direction, double CopyTimes::*figure) {
            std::vector<double> figures;
            for (const RoundTimes &round : rounds) figures.push_back(round.*direction.*figure);
            std::nth_element(figures.begin(), figures.begin() + static_cast<std::ptrdiff_t>(count / 2), figures.end());
            return figures[count / 2];
        };
        RoundTimes times;
        for (const auto direction : {&RoundTimes::store, &RoundTimes::restore})
            for (const auto figure : {&CopyTimes::engine, &CopyTimes::memcpy, &CopyTimes::hostkv_copy})
                times.*direction.*figure = median(direction, figure);
        return times;
    }

private:
    RoundTimes round() {
        RoundTimes times;
        cache_.keyspace().remove(keys_);
        {
            hostkv::Reservation reservation = cache_.keyspace().reserve(items_);
            std::vector<void *> extents;
            for (const hostkv::ReserveItem &item : reservation) extents.push_back(item ? item.span.data() : nullptr);
            times.store = copy_times(extents, true);
        }
        empty_caches();
        const Transfer stored = cache_.store(context_, keys_, 0);
        times.store.engine = stored.seconds;
        {
            hostkv::Lease lease = cache_.keyspace().acquire(keys_);
            std::vector<void *> extents;
            for (const hostkv::LeaseItem &item : lease) extents.push_back(item ? const_cast<std::byte *>(item.span.data()) : nullptr);
            times.restore = copy_times(extents, false);
        }
        context_.truncate(0);
        empty_caches();
        const Transfer restored = cache_.restore(context_, keys_);
        times.restore.engine = restored.seconds;
        if (stored.chunk_count != keys_.size() || restored.chunk_count != keys_.size())
            throw std::runtime_error("a round stored " + std::to_string(stored.chunk_count) + " and restored " +
                                     std::to_string(restored.chunk_count) + " of " + std::to_string(keys_.size()) + " chunks");
        return times;
    }

    // Copies all chunks into the extents, or out of them, in both ways.
    CopyTimes copy_times(const std::vector<void *> &extents, bool is_in) {
        for (void *extent : extents)
            if (extent == nullptr)
                throw std::runtime_error("the pool does not hold all " + std::to_string(keys_.size()) +
                                         " chunks at once; give the daemon a larger --l1-size-gb");
        CopyTimes times;
        times.memcpy = seconds_of(extents, is_in, [](void *to, const void *from, std::size_t bytes) { std::memcpy(to, from, bytes); });
        times.hostkv_copy = seconds_of(extents, is_in, [](void *to, const void *from, std::size_t bytes) { hostkv_copy(to, from, bytes); });
        return times;
    }

    template <class Copy>
    double seconds_of(const std::vector<void *> &extents, bool is_in, Copy copy) {
        empty_caches();
        const double begin = now_seconds();
        char *own = private_.data();
        for (std::size_t chunk = 0; chunk < extents.size(); ++chunk) {
            // In the engine a tensor's part begins on a cache line, in the chunk behind a head of its own.
            const std::size_t stride = items_[chunk].len_bytes / context_.tensor_count();
            const std::size_t piece_bytes = (stride - piece_head_bytes) / line_bytes * line_bytes;
            char *in_extent = static_cast<char *>(extents[chunk]) + piece_head_bytes;
            for (std::size_t tensor = 0; tensor < context_.tensor_count(); ++tensor) {
                copy(is_in ? in_extent : own, is_in ? own : in_extent, piece_bytes);
                own += piece_bytes;
                in_extent += stride;
            }
        }
        return now_seconds() - begin;
    }

    void empty_caches() {
        for (char &byte : other_) byte = static_cast<char>(byte + 1);
    }

    static constexpr std::size_t other_bytes = 128 << 20;
    static constexpr std::size_t line_bytes = 64;
    static constexpr std::size_t piece_head_bytes = 12; // a tensor's type and the size of its rows

    Context &context_;
    PrefixCache &cache_;
    const std::vector<hostkv::Key> &keys_;
    std::vector<hostkv_reserve_item> items_;
    std::vector<char> private_;
    std::vector<char> other_;
};

#endif
