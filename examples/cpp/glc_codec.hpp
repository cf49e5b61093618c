// The codec of glc-deploy for C++17: images in the caller's memory to streams and back.
//
//     glc::Python python("/srv/app/.venv/bin/python");   // once, in main; outlives everything below
//     glc::Codec codec(python);
//     std::string stream = codec.encode(image, 1.0);     // from any thread
//     codec.decode_into(stream, pixels);
//
// Images are 8-bit RGB, three bytes a pixel; rows may be padded, as those of OpenCV are (whose order is BGR).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

namespace glc {

// An error of the codec: kind() is its class in Python, such as "ModelMismatch"; what() is one line that says what to do.
class Error : public std::runtime_error {
public:
    Error(std::string kind, const std::string &message) : std::runtime_error(message), kind_(std::move(kind)) {}
    const std::string &kind() const noexcept { return kind_; }

private:
    std::string kind_;
};

// A stream cannot be decoded.
class BitstreamError : public Error {
    using Error::Error;
};

// A stream ends before its image does: perhaps more of it is still to come.
class TruncatedBitstream : public BitstreamError {
    using BitstreamError::BitstreamError;
};

struct ImageSize {
    int height;
    int width;
};

// Pixels that are read, in the caller's memory.
struct ImageView {
    const std::uint8_t *data;
    ImageSize size;
    std::ptrdiff_t row_bytes; // from one row to the next; 3 * width where rows are not padded
};

// Pixels that are written, in the caller's memory.
struct MutableImageView {
    std::uint8_t *data;
    ImageSize size;
    std::ptrdiff_t row_bytes;
};

// The interpreter: one a process, begun and ended by the same thread, never begun twice (NumPy cannot be loaded again).
// Threads hold its lock (the GIL) in calls only, the thread that made it too. Signals are left to the program.
class Python {
public:
    // executable: the environment's `python`, by which its packages are found. Throws std::runtime_error.
    explicit Python(const std::string &executable);
    ~Python();
    Python(const Python &) = delete;
    Python &operator=(const Python &) = delete;

private:
    struct State;
    std::unique_ptr<State> state_;
};

struct CodecOptions {
    std::string bundle; // path; empty takes the demonstration model
    std::string engine; // name; empty takes the fastest that is installed and exact
    int threads = 0;    // CPU threads of one call; 0 takes all
};

// An open codec. Threads may share it; it must end before the interpreter, and when no call runs any more.
//
// Calls throw Error for what is wrong with a file or the installation, and std::invalid_argument for a mistake of the
// caller's. Images are handed over where they lie: no call copies one on its way to Python or back.
class Codec {
public:
    explicit Codec(const Python &python, const CodecOptions &options = {});
    ~Codec();
    Codec(const Codec &) = delete;
    Codec &operator=(const Codec &) = delete;

    // Load all graphs now rather than in the first calls.
    void warm_up();

    std::string engine() const;

    // Encode an image from 1x1 up; quality from 0 to the model's last, fractions interpolate.
    std::string encode(const ImageView &image, double quality) const;

    // Height and width of a stream's image; reads its first bytes only.
    ImageSize size_of(std::string_view stream) const;

    // Decode a stream into an image of its size; nothing between the rows is touched.
    void decode_into(std::string_view stream, const MutableImageView &image) const;

    // Where NumPy sees the first pixel, by the array that `encode` hands over: image.data, as a proof.
    std::uintptr_t address_in_numpy(const ImageView &image) const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

} // namespace glc
