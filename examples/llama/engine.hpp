// engine.hpp: the part of llama.cpp that this example needs, with its KV bytes cut into chunks.
//
// A chunk is 256 tokens of the prompt. Its KV bytes leave and enter the engine by llama.cpp's public
// state functions, which copy straight between the KV tensors and the pointer they are given:
//
//     out:  seq_cp(live -> scratch, [p0, p1))     a second mark on the same cells, no copy
//           state_seq_get_data(scratch) -> dst    the one copy
//           seq_rm(scratch)
//     in:   state_seq_set_data(scratch) <- src    the one copy, into free cells
//           seq_cp(scratch -> live);  seq_rm(scratch)
//
// What makes restored bytes as good as computed ones, to the last bit:
//   - kv_unified: both sequences share one stream of cells, or seq_cp would copy and the format differ.
//   - Always the same scratch id: it is part of the bytes.
//   - Never set_data on the live sequence: it removes what the sequence holds first.
//   - swa_full: models with sliding windows keep every position, or old ones are gone when they are saved.
//   - n_ubatch = n_batch = the chunk: the rest after a restored prefix is computed in the same batch
//     shapes as without one. Other shapes round differently.
//   - The last prompt token is always computed, alone: it gives the logits to sample from.
//
// One thread calls all of this. Failures are std::runtime_error.

#ifndef HOSTKV_LLAMA_ENGINE_HPP
#define HOSTKV_LLAMA_ENGINE_HPP

#include <llama.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

constexpr std::uint32_t chunk_tokens = 256;

struct EngineOptions {
    std::string model_path;
    int thread_count = 2;
    bool is_flash_attention = true;
    ggml_type kv_type = GGML_TYPE_F16;
};

class Model {
public:
    explicit Model(const std::string &path) {
        llama_model_params params = llama_model_default_params();
        params.n_gpu_layers = 0;
        params.progress_callback = [](float, void *) { return true; }; // the default prints dots
        model_.reset(llama_model_load_from_file(path.c_str(), params));
        if (!model_) throw std::runtime_error("llama.cpp cannot load the model " + path);
    }

    llama_model *get() const { return model_.get(); }
    const llama_vocab *vocab() const { return llama_model_get_vocab(model_.get()); }
    int vocab_size() const { return llama_vocab_n_tokens(vocab()); }

    // A recurrent state cannot be cut by positions: such models have no chunks to share.
    bool is_chunkable() const { return !llama_model_is_recurrent(get()) && !llama_model_is_hybrid(get()); }

private:
    struct Free {
        void operator()(llama_model *model) const { llama_model_free(model); }
    };
    std::unique_ptr<llama_model, Free> model_;
};

class Context {
public:
    Context(const Model &model, const EngineOptions &options, std::size_t token_capacity) : model_(model) {
        llama_context_params params = llama_context_default_params();
        params.n_ctx = static_cast<std::uint32_t>((token_capacity / chunk_tokens + 1) * chunk_tokens);
        params.n_batch = chunk_tokens;
        params.n_ubatch = chunk_tokens;
        params.n_seq_max = 2;
        params.kv_unified = true;
        params.swa_full = true;
        params.n_threads = options.thread_count;
        params.n_threads_batch = options.thread_count;
        params.type_k = options.kv_type;
        params.type_v = options.kv_type;
        params.flash_attn_type =
            options.is_flash_attention ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
        context_.reset(llama_init_from_model(model.get(), params));
        if (!context_) throw std::runtime_error("llama.cpp cannot make a context for " + std::to_string(params.n_ctx) + " tokens");
        memory_ = llama_get_memory(context_.get());
    }

    // Computes tokens [from, to) of the sequence, at most a chunk at a time, each batch from a chunk's
    // beginning when `from` is one. The logits are those of the last token.
    void decode(const std::vector<llama_token> &tokens, std::size_t from, std::size_t to) {
        const std::size_t most = std::min<std::size_t>(chunk_tokens, to - std::min(from, to));
        Batch batch(static_cast<int>(most));
        while (from < to) {
            const std::size_t count = std::min<std::size_t>(chunk_tokens, to - from);
            batch.get().n_tokens = static_cast<int>(count);
            for (std::size_t i = 0; i < count; ++i) {
                batch.get().token[i] = tokens[from + i];
                batch.get().pos[i] = static_cast<llama_pos>(from + i);
                batch.get().n_seq_id[i] = 1;
                batch.get().seq_id[i][0] = live;
                batch.get().logits[i] = from + i + 1 == to;
            }
            const int code = llama_decode(context_.get(), batch.get());
            if (code != 0) throw std::runtime_error("llama_decode failed with code " + std::to_string(code));
            from += count;
        }
        llama_synchronize(context_.get());
    }

    // Tensors that hold the sequence: keys and values of each layer.
    std::size_t tensor_count() const { return 2 * static_cast<std::size_t>(llama_model_n_layer(model_.get())); }

    std::vector<float> logits() const {
        const float *last = llama_get_logits_ith(context_.get(), -1);
        if (last == nullptr) throw std::runtime_error("llama.cpp has no logits");
        return std::vector<float>(last, last + model_.vocab_size());
    }

    // The size of every chunk: all have as many cells, and a cell's bytes do not depend on what is in it. The first call
    // wants one in the live sequence. Marking and sizing pass over all cells of the context, so once is enough.
    std::size_t chunk_bytes() {
        if (chunk_bytes_ == 0) {
            const Marked marked(*this, 0);
            chunk_bytes_ = llama_state_seq_get_size_ext(context_.get(), scratch, 0);
        }
        return chunk_bytes_;
    }

    // Writes it to `destination`; false if llama.cpp did not write exactly `len_bytes`.
    bool export_chunk(std::size_t chunk, void *destination, std::size_t len_bytes) {
        const Marked marked(*this, chunk);
        return llama_state_seq_get_data_ext(context_.get(), static_cast<std::uint8_t *>(destination), len_bytes, scratch, 0) == len_bytes;
    }

    // Appends a chunk to the live sequence, which must end where the chunk begins; false if the bytes were not
    // that chunk (the sequence is then as before).
    bool import_chunk(std::size_t chunk, const void *source, std::size_t len_bytes) {
        const auto *bytes = static_cast<const std::uint8_t *>(source);
        const bool is_read = llama_state_seq_set_data_ext(context_.get(), bytes, len_bytes, scratch, 0) == len_bytes &&
                             llama_memory_seq_pos_min(memory_, scratch) == first_position(chunk) &&
                             llama_memory_seq_pos_max(memory_, scratch) == first_position(chunk + 1) - 1;
        if (is_read) llama_memory_seq_cp(memory_, scratch, live, -1, -1);
        llama_memory_seq_rm(memory_, scratch, -1, -1);
        return is_read;
    }

    // Forgets everything from the beginning of `chunk` on.
    void truncate(std::size_t chunk) {
        if (!llama_memory_seq_rm(memory_, live, first_position(chunk), -1))
            throw std::runtime_error("llama.cpp cannot truncate the sequence");
    }

private:
    static constexpr llama_seq_id live = 0;
    static constexpr llama_seq_id scratch = 1;

    static llama_pos first_position(std::size_t chunk) { return static_cast<llama_pos>(chunk * chunk_tokens); }

    // While it lives the scratch sequence is one chunk of the live one.
    class Marked {
    public:
        Marked(Context &context, std::size_t chunk) : memory_(context.memory_) {
            llama_memory_seq_cp(memory_, live, scratch, first_position(chunk), first_position(chunk + 1));
        }
        ~Marked() { llama_memory_seq_rm(memory_, scratch, -1, -1); }
        Marked(const Marked &) = delete;
        Marked &operator=(const Marked &) = delete;

    private:
        llama_memory_t memory_;
    };

    class Batch {
    public:
        explicit Batch(int capacity) : batch_(llama_batch_init(std::max(capacity, 1), 0, 1)) {}
        ~Batch() { llama_batch_free(batch_); }
        Batch(const Batch &) = delete;
        Batch &operator=(const Batch &) = delete;
        llama_batch &get() { return batch_; }

    private:
        llama_batch batch_;
    };

    struct Free {
        void operator()(llama_context *context) const { llama_free(context); }
    };
    const Model &model_;
    std::unique_ptr<llama_context, Free> context_;
    llama_memory_t memory_ = nullptr;
    std::size_t chunk_bytes_ = 0;
};

#endif
