// An image as cameras and image libraries hold it.
#pragma once

#include "glc_codec.hpp"

#include <cstdint>
#include <vector>

inline constexpr std::uint8_t UNTOUCHED = 0xA5;

// Rows that begin at multiples of 64 bytes, as frames of cameras and of image libraries do.
struct PaddedImage {
    glc::ImageSize size;
    std::ptrdiff_t row_bytes;
    std::vector<std::uint8_t> bytes;

    explicit PaddedImage(glc::ImageSize of)
        : size(of), row_bytes((3 * of.width / 64 + 1) * 64), bytes(row_bytes * of.height, UNTOUCHED) {}
    glc::ImageView view() const { return {bytes.data(), size, row_bytes}; }
    glc::MutableImageView target() { return {bytes.data(), size, row_bytes}; }

    bool padding_is_untouched() const {
        for (int y = 0; y < size.height; ++y)
            for (std::ptrdiff_t x = 3 * size.width; x < row_bytes; ++x)
                if (bytes[y * row_bytes + x] != UNTOUCHED)
                    return false;
        return true;
    }
};

// A test picture.
inline PaddedImage rings(glc::ImageSize size) {
    PaddedImage image(size);
    for (int y = 0; y < size.height; ++y)
        for (int x = 0; x < size.width; ++x)
            for (int channel = 0; channel < 3; ++channel)
                image.bytes[y * image.row_bytes + 3 * x + channel] =
                    static_cast<std::uint8_t>((x * x + y * y) / (300 + 100 * channel) + x / 2);
    return image;
}

inline std::vector<std::uint8_t> without_padding(const PaddedImage &image) {
    std::vector<std::uint8_t> packed;
    for (int y = 0; y < image.size.height; ++y) {
        const auto row = image.bytes.begin() + y * image.row_bytes;
        packed.insert(packed.end(), row, row + 3 * image.size.width);
    }
    return packed;
}
