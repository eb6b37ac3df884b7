// hostkv-llama: one engine worker serving one request, with a prefix cache that other processes share.
//
//     hostkv-llama --model M.gguf [options]
//
//     keys -> restore the cached prefix -> prefill the rest -> first token -> store new chunks -> more tokens
//
// Run it twice with the same arguments: the second process does not prefill. One JSON line on standard
// output tells what happened and how long it took; everything else goes to standard error. Exit code 0, 1
// for a failure (also when --verify finds a difference), 2 for wrong arguments. A missing or failing cache
// is no failure, it is a line on standard error.

#include "engine.hpp"
#include "prefix_cache.hpp"
#include "rounds.hpp"

#include <getopt.h>

#include <cerrno>
#include <climits>
#include <cstdlib>

namespace {

struct Options {
    EngineOptions engine;
    std::string socket_path;
    std::string prompt_path;
    std::string logits_path;
    std::size_t token_count = 2049;
    std::size_t vary_from = SIZE_MAX;
    std::size_t generate_count = 8;
    std::uint64_t seed = 1;
    std::uint32_t prefetch_ms = 0;
    std::size_t round_count = 0;
    bool is_cached = true;
    bool is_verified = false;
};

constexpr const char *usage =
    "usage: hostkv-llama --model FILE [options]\n"
    "  --prompt FILE       the prompt as text; without it a made-up one, the same in every process\n"
    "  --tokens N          length of the made-up prompt (2049)\n"
    "  --seed N            which made-up prompt (1)\n"
    "  --vary-from N       other tokens from position N on, so that only what is before is shared\n"
    "  --generate N        tokens to generate (8)\n"
    "  --threads N         (2)\n"
    "  --kv-type T         f16 or q8_0 (f16)\n"
    "  --no-flash          without flash attention\n"
    "  --socket PATH       the daemon's socket (HOSTKV_SOCKET, then the usual places)\n"
    "  --no-cache          do not use the pool\n"
    "  --prefetch MS       have the prefix brought into the pool out of the daemon's tiers, and wait so long for it (0)\n"
    "  --logits FILE       write the first token's logits there, as floats\n"
    "  --rounds N          at the end store and restore the prompt N times, beside copies of the same bytes (0)\n"
    "  --verify            compute everything again without the cache; a differing bit is a failure\n";

[[noreturn]] void refuse(const std::string &sentence) {
    std::fprintf(stderr, "hostkv-llama: %s\n%s", sentence.c_str(), usage);
    std::exit(2);
}

std::uint64_t number(const char *option, const char *text, std::uint64_t low, std::uint64_t high) {
    char *end = nullptr;
    errno = 0;
    const std::uint64_t value = std::strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || *text == '-' || value < low || value > high)
        refuse(std::string("--") + option + " " + text + " is not a number from " + std::to_string(low) + " to " + std::to_string(high) + ".");
    return value;
}

Options parse(int argc, char **argv) {
    enum { model = 1, prompt, tokens, seed, vary_from, generate, threads, kv_type, no_flash, socket, no_cache, prefetch, logits, rounds, verify };
    static const option known[] = {
        {"model", required_argument, nullptr, model},       {"prompt", required_argument, nullptr, prompt},
        {"tokens", required_argument, nullptr, tokens},     {"seed", required_argument, nullptr, seed},
        {"vary-from", required_argument, nullptr, vary_from}, {"generate", required_argument, nullptr, generate},
        {"threads", required_argument, nullptr, threads},   {"kv-type", required_argument, nullptr, kv_type},
        {"no-flash", no_argument, nullptr, no_flash},       {"socket", required_argument, nullptr, socket},
        {"no-cache", no_argument, nullptr, no_cache},       {"prefetch", required_argument, nullptr, prefetch},
        {"logits", required_argument, nullptr, logits},     {"rounds", required_argument, nullptr, rounds},
        {"verify", no_argument, nullptr, verify},           {nullptr, 0, nullptr, 0},
    };
    constexpr std::uint64_t most_tokens = 1 << 20;
    Options options;
    int code = 0;
    while ((code = getopt_long(argc, argv, "", known, nullptr)) != -1) {
        switch (code) {
        case model: options.engine.model_path = optarg; break;
        case prompt: options.prompt_path = optarg; break;
        case tokens: options.token_count = number("tokens", optarg, 1, most_tokens); break;
        case seed: options.seed = number("seed", optarg, 0, UINT64_MAX); break;
        case vary_from: options.vary_from = number("vary-from", optarg, 1, most_tokens); break;
        case generate: options.generate_count = number("generate", optarg, 1, most_tokens); break;
        case threads: options.engine.thread_count = static_cast<int>(number("threads", optarg, 1, 1024)); break;
        case kv_type:
            if (std::strcmp(optarg, "f16") != 0 && std::strcmp(optarg, "q8_0") != 0) refuse("--kv-type is f16 or q8_0.");
            options.engine.kv_type = optarg[0] == 'f' ? GGML_TYPE_F16 : GGML_TYPE_Q8_0;
            break;
        case no_flash: options.engine.is_flash_attention = false; break;
        case socket: options.socket_path = optarg; break;
        case no_cache: options.is_cached = false; break;
        case prefetch: options.prefetch_ms = static_cast<std::uint32_t>(number("prefetch", optarg, 0, 3600000)); break;
        case logits: options.logits_path = optarg; break;
        case rounds: options.round_count = number("rounds", optarg, 0, 1000); break;
        case verify: options.is_verified = true; break;
        default: refuse("unknown or incomplete option.");
        }
    }
    if (optind != argc) refuse(std::string("unexpected argument ") + argv[optind] + ".");
    if (options.engine.model_path.empty()) refuse("--model is missing.");
    return options;
}

struct CloseFile {
    void operator()(std::FILE *file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

File open_file(const std::string &path, const char *mode) {
    File file(std::fopen(path.c_str(), mode));
    if (!file) throw std::runtime_error("cannot open " + path + ": " + std::strerror(errno));
    return file;
}

std::vector<llama_token> text_prompt(const Model &model, const std::string &path) {
    const File file = open_file(path, "rb");
    std::string text;
    char part[65536];
    for (std::size_t n; (n = std::fread(part, 1, sizeof part, file.get())) > 0;) text.append(part, n);
    if (text.size() > INT_MAX - 16) throw std::runtime_error("the prompt in " + path + " is too long");
    const auto tokenize = [&](std::vector<llama_token> &tokens) {
        return llama_tokenize(model.vocab(), text.data(), static_cast<int>(text.size()), tokens.data(),
                              static_cast<int>(tokens.size()), true, false);
    };
    // Too small a buffer is answered with the size it takes, negated.
    std::vector<llama_token> tokens(text.size() + 16);
    int count = tokenize(tokens);
    if (count < 0 && count != INT_MIN) {
        tokens.resize(static_cast<std::size_t>(-count));
        count = tokenize(tokens);
    }
    if (count < 1) throw std::runtime_error("llama.cpp cannot tokenize " + path);
    tokens.resize(static_cast<std::size_t>(count));
    return tokens;
}

// A splitmix64 sequence folded into the vocabulary behind the control tokens. From `vary_from` on every token
// is the one after the other prompt's, so that no position happens to be equal.
std::vector<llama_token> made_up_prompt(const Model &model, const Options &options) {
    const int first = 3;
    const int kinds = std::min(model.vocab_size() - first, 256);
    if (kinds < 2) throw std::runtime_error("the model's vocabulary is too small for a made-up prompt");
    std::vector<llama_token> tokens;
    std::uint64_t state = options.seed;
    for (std::size_t i = 0; i < options.token_count; ++i) {
        state += 0x9e3779b97f4a7c15u;
        std::uint64_t mixed = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9u;
        mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
        mixed = (mixed ^ (mixed >> 31)) % static_cast<std::uint64_t>(kinds);
        if (i >= options.vary_from) mixed = (mixed + 1) % static_cast<std::uint64_t>(kinds);
        tokens.push_back(first + static_cast<llama_token>(mixed));
    }
    return tokens;
}

llama_token most_likely(const std::vector<float> &logits) {
    return static_cast<llama_token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// FNV-1a of the logits' bytes: equal logits, equal text in the report.
std::uint64_t digest(const std::vector<float> &logits) {
    std::uint64_t hash = 0xcbf29ce484222325u;
    const auto *bytes = reinterpret_cast<const unsigned char *>(logits.data());
    for (std::size_t i = 0; i < logits.size() * sizeof(float); ++i) hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

bool is_equal(const std::vector<float> &a, const std::vector<float> &b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void run(const Options &options) {
    const Model model(options.engine.model_path);
    std::vector<llama_token> tokens = options.prompt_path.empty() ? made_up_prompt(model, options) : text_prompt(model, options.prompt_path);
    const std::size_t prompt_count = tokens.size();
    const std::size_t last = prompt_count - 1; // always computed, so never part of a chunk
    const std::size_t capacity = prompt_count + options.generate_count;
    Context context(model, options.engine, capacity);

    std::optional<PrefixCache> cache;
    if (options.is_cached && model.is_chunkable())
        cache.emplace(options.socket_path, model, options.engine);
    else if (options.is_cached)
        std::fprintf(stderr, "hostkv-llama: cache: this model has recurrent state, which has no chunks; going on without it.\n");

    const double begin = now_seconds();
    const std::vector<std::uint32_t> before_last(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(last));
    const std::vector<hostkv::Key> keys = cache ? hostkv::chunk_keys(before_last, chunk_tokens) : std::vector<hostkv::Key>();
    const Transfer restored = cache ? cache->restore(context, keys, options.prefetch_ms) : Transfer();
    const double prefill_begin = now_seconds();
    context.decode(tokens, restored.chunk_count * chunk_tokens, last);
    const double prefill_seconds = now_seconds() - prefill_begin;
    context.decode(tokens, last, prompt_count);
    const std::vector<float> first_logits = context.logits();
    const double first_token_seconds = now_seconds() - begin;

    // Behind the first token, so that nobody waits for it.
    const Transfer stored = cache ? cache->store(context, keys, restored.chunk_count) : Transfer();

    std::string generated;
    tokens.push_back(most_likely(first_logits));
    while (true) {
        generated += (generated.empty() ? "" : ",") + std::to_string(tokens.back());
        if (tokens.size() == capacity || llama_vocab_is_eog(model.vocab(), tokens.back())) break;
        context.decode(tokens, tokens.size() - 1, tokens.size());
        tokens.push_back(most_likely(context.logits()));
    }

    if (!options.logits_path.empty()) {
        const File file = open_file(options.logits_path, "wb");
        const std::size_t count = std::fwrite(first_logits.data(), sizeof(float), first_logits.size(), file.get());
        if (count != first_logits.size() || std::fflush(file.get()) != 0) throw std::runtime_error("cannot write " + options.logits_path);
    }
    if (options.is_verified) {
        Context fresh(model, options.engine, capacity);
        fresh.decode(tokens, 0, last);
        fresh.decode(tokens, last, prompt_count);
        if (!is_equal(first_logits, fresh.logits())) throw std::runtime_error("the first token's logits differ from a run without the cache");
    }

    // Nobody's request: each round removes the chunks and stores them again.
    RoundTimes rounds;
    if (options.round_count > 0) {
        if (keys.empty()) throw std::runtime_error("--rounds wants the cache and a prompt of more than " + std::to_string(chunk_tokens) + " tokens");
        rounds = Rounds(context, *cache, keys).run(options.round_count);
    }

    std::printf("{\"tokens\":%zu,\"total_chunks\":%zu,\"hit_chunks\":%zu,\"saved_chunks\":%zu,\"kv_bytes\":%" PRIu64
                ",\"prefill_s\":%.6f,\"restore_s\":%.6f,\"save_s\":%.6f,\"first_token_s\":%.6f,\"verified\":%s,"
                "\"logits\":\"%016" PRIx64 "\",\"generated\":[%s]",
                prompt_count, last / chunk_tokens, restored.chunk_count, stored.chunk_count, restored.bytes + stored.bytes,
                prefill_seconds, restored.seconds, stored.seconds, first_token_seconds, options.is_verified ? "true" : "false",
                digest(first_logits), generated.c_str());
    if (options.round_count > 0)
        std::printf(",\"rounds\":{\"restore_s\":%.6f,\"restore_memcpy_s\":%.6f,\"restore_copy_s\":%.6f,"
                    "\"save_s\":%.6f,\"save_memcpy_s\":%.6f,\"save_copy_s\":%.6f}",
                    rounds.restore.engine, rounds.restore.memcpy, rounds.restore.hostkv_copy, rounds.store.engine,
                    rounds.store.memcpy, rounds.store.hostkv_copy);
    std::printf("}\n");
    if (std::fflush(stdout) != 0) throw std::runtime_error("cannot write the result");
}

} // namespace

int main(int argc, char **argv) {
    const Options options = parse(argc, argv);
    llama_log_set([](ggml_log_level level, const char *text, void *) {
        if (level >= GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
    }, nullptr);
    llama_backend_init();
    int code = 0;
    try {
        run(options);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "hostkv-llama: %s.\n", error.what());
        code = 1;
    }
    llama_backend_free();
    return code;
}
