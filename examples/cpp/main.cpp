// Encodes an image that lies in a C++ buffer, decodes it in four threads into four others, and says what was found.
// glc_embed [bundle]

#include "glc_codec.hpp"
#include "padded_image.hpp"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int THREADS = 4;

void require(bool condition, const char *what) {
    std::printf("%s: %s\n", what, condition ? "yes" : "NO");
    if (!condition)
        throw std::runtime_error(what);
}

void run(const glc::Codec &codec) {
    std::printf("engine: %s\n", codec.engine().c_str());
    const PaddedImage image = rings({200, 300});
    const std::vector<std::uint8_t> packed = without_padding(image);
    require(codec.address_in_numpy(image.view()) == reinterpret_cast<std::uintptr_t>(image.bytes.data()),
            "numpy sees the memory of the C++ buffer");

    const std::string stream = codec.encode(image.view(), 1.0);
    require(codec.encode({packed.data(), image.size, 3 * image.size.width}, 1.0) == stream,
            "padded and packed rows give one stream");
    const glc::ImageSize size = codec.size_of(stream);
    std::printf("stream: %dx%d, %zu bytes\n", size.width, size.height, stream.size());

    std::vector<PaddedImage> decoded(THREADS, PaddedImage(size));
    std::vector<std::exception_ptr> failures(THREADS);
    std::vector<std::thread> threads;
    for (int i = 0; i < THREADS; ++i)
        threads.emplace_back([&, i] {
            try {
                codec.decode_into(stream, decoded[i].target());
            } catch (...) {
                failures[i] = std::current_exception();
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    for (const std::exception_ptr &failure : failures)
        if (failure)
            std::rethrow_exception(failure);
    require(std::all_of(decoded.begin(), decoded.end(), [&](const auto &one) { return one.bytes == decoded[0].bytes; }),
            "the images of all threads are equal");
    require(decoded[0].padding_is_untouched(), "the padding of rows is untouched");
    require(decoded[0].bytes != PaddedImage(size).bytes, "the pixels are written");

    try {
        codec.decode_into(std::string_view(stream).substr(0, stream.size() - 20), decoded[0].target());
    } catch (const glc::TruncatedBitstream &error) { // more may come: wait for it
        std::printf("cut stream: %s\n", error.what());
    }
    try {
        codec.decode_into("P6 300 200 255 ", decoded[0].target());
    } catch (const glc::Error &error) { // everything else that is wrong with a file or the installation
        std::printf("other file: %s: %s\n", error.kind().c_str(), error.what());
    }
    try {
        codec.encode(image.view(), 99.0);
    } catch (const std::invalid_argument &error) { // a mistake in the call
        std::printf("mistake: %s\n", error.what());
    }
}

extern "C" void on_interrupt(int) { std::_Exit(130); }

} // namespace

int main(int count, char **arguments) {
    std::signal(SIGINT, SIG_DFL); // Ctrl-C ends the program, until it says otherwise below
    try {
        {
            const char *environment = std::getenv("GLC_PYTHON");
            const glc::Python python(environment ? environment : GLC_PYTHON); // ends last
            glc::CodecOptions options;
            options.bundle = count > 1 ? arguments[1] : "";
            options.threads = 1;
            const glc::Codec codec(python, options);
            run(codec);
            require(std::signal(SIGINT, on_interrupt) == SIG_DFL, "Python left SIGINT alone");
        }
        require(std::signal(SIGINT, SIG_DFL) == on_interrupt, "at its end too");
    } catch (const glc::Error &error) {
        std::fprintf(stderr, "glc_embed: error: %s: %s\n", error.kind().c_str(), error.what());
        return 1;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "glc_embed: error: %s\n", error.what());
        return 1;
    }
    std::puts("done");
    return 0;
}
