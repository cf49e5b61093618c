#include "glc_codec.hpp"

#include <pybind11/embed.h>
#include <pybind11/numpy.h>

#include <csignal>
#include <filesystem>
#include <new>
#include <optional>

namespace py = pybind11;

namespace glc {
namespace {

// What Python raised, as an exception that needs no interpreter. The caller holds the GIL.
[[noreturn]] void rethrow(const py::error_already_set &error) {
    const py::dict modules = py::module_::import("sys").attr("modules");
    const std::string kind = py::str(py::type::of(error.value()).attr("__name__"));
    const std::string message = py::str(error.value());
    if (modules.contains("glc.errors")) { // where importing glc is what failed, it is not there
        const py::object errors = modules["glc.errors"];
        if (error.matches(errors.attr("TruncatedBitstream")))
            throw TruncatedBitstream(kind, message);
        if (error.matches(errors.attr("BitstreamError")))
            throw BitstreamError(kind, message);
        if (error.matches(errors.attr("GlcError")))
            throw Error(kind, message);
    }
    if (error.matches(PyExc_ValueError) || error.matches(PyExc_TypeError))
        throw std::invalid_argument(message);
    if (error.matches(PyExc_MemoryError))
        throw std::bad_alloc();
    throw std::runtime_error(kind + ": " + message);
}

// Call with the GIL held, which is given back whatever comes of it.
template <class Function> auto in_python(Function &&function) {
    const py::gil_scoped_acquire gil;
    try {
        return function();
    } catch (const py::error_already_set &error) {
        rethrow(error);
    }
}

// An array (H, W, 3) on the caller's memory. pybind11 copies what has no owner, hence None. The array must not outlive
// the call that it is made for: the codec keeps none.
py::array on(const std::uint8_t *data, const ImageSize &size, std::ptrdiff_t row_bytes) {
    if (data == nullptr || size.height < 1 || size.width < 1 || row_bytes < 3 * static_cast<std::ptrdiff_t>(size.width))
        throw std::invalid_argument("an image needs memory, a positive size, and rows of at least 3 * width bytes");
    return py::array_t<std::uint8_t>({size.height, size.width, 3}, {row_bytes, std::ptrdiff_t{3}, std::ptrdiff_t{1}},
                                     data, py::none());
}

py::array read_only(const ImageView &image) {
    py::array array = on(image.data, image.size, image.row_bytes);
    array.attr("setflags")(py::arg("write") = false);
    return array;
}

py::memoryview bytes_of(std::string_view stream) {
    return py::memoryview::from_memory(stream.data(), static_cast<py::ssize_t>(stream.size()));
}

PyConfig *configure(PyConfig &config, const std::string &executable) {
    if (!std::filesystem::exists(executable))
        throw std::runtime_error("no Python at " + executable + ": name bin/python of the environment that has glc-deploy");
    PyConfig_InitPythonConfig(&config);
    config.parse_argv = 0;
    config.install_signal_handlers = 0;
    const PyStatus status = PyConfig_SetBytesString(&config, &config.executable, executable.c_str());
    if (PyStatus_Exception(status)) {
        PyConfig_Clear(&config);
        throw std::runtime_error("Python does not take the name " + executable);
    }
    return &config;
}

// Give SIGINT back: whoever imports `signal` first takes it, even where the configuration leaves signals alone, and the
// end of the interpreter would reset what Python thinks its own.
void leave_signals_alone() {
    struct sigaction of_program;
    sigaction(SIGINT, nullptr, &of_program);
    const py::module_ signals = py::module_::import("signal");
    signals.attr("signal")(SIGINT, signals.attr("SIG_DFL"));
    sigaction(SIGINT, &of_program, nullptr);
}

} // namespace

// Members end in reverse order: the GIL is taken back, then the interpreter ends.
struct Python::State {
    PyConfig config;
    py::scoped_interpreter interpreter;
    std::optional<py::gil_scoped_release> released;

    explicit State(const std::string &executable) : interpreter(configure(config, executable), 0, nullptr, false) {
        leave_signals_alone();
        released.emplace();
    }
};

Python::Python(const std::string &executable) : state_(std::make_unique<State>(executable)) {}
Python::~Python() = default;

struct Codec::State {
    py::object codec;
    py::object inspect;
};

Codec::Codec(const Python &, const CodecOptions &options) {
    in_python([&] {
        const auto or_none = [](const std::string &text) -> py::object {
            return text.empty() ? py::object(py::none()) : py::object(py::str(text));
        };
        const py::object threads = options.threads == 0 ? py::object(py::none()) : py::object(py::int_(options.threads));
        const py::module_ glc = py::module_::import("glc");
        auto opened = std::make_unique<State>(); // kept only when it is whole: an error ends it while the GIL is held
        opened->inspect = glc.attr("inspect");
        opened->codec = glc.attr("Codec").attr("open")(
            or_none(options.bundle), py::arg("engine") = or_none(options.engine), py::arg("threads") = threads);
        state_ = std::move(opened);
    });
}

Codec::~Codec() {
    const py::gil_scoped_acquire gil;
    try {
        state_->codec.attr("close")();
    } catch (py::error_already_set &error) {
        error.discard_as_unraisable("glc::Codec::~Codec");
    }
    state_.reset(); // while the GIL is held
}

void Codec::warm_up() {
    in_python([&] { state_->codec.attr("warm_up")(); });
}

std::string Codec::engine() const {
    return in_python([&] { return state_->codec.attr("engine").cast<std::string>(); });
}

std::string Codec::encode(const ImageView &image, double quality) const {
    return in_python([&] {
        return std::string(py::bytes(state_->codec.attr("encode")(read_only(image), quality)));
    });
}

ImageSize Codec::size_of(std::string_view stream) const {
    return in_python([&] {
        const py::object header = state_->inspect(bytes_of(stream)).attr("header");
        return ImageSize{header.attr("height").cast<int>(), header.attr("width").cast<int>()};
    });
}

void Codec::decode_into(std::string_view stream, const MutableImageView &image) const {
    in_python([&] {
        state_->codec.attr("decode")(bytes_of(stream), py::arg("out") = on(image.data, image.size, image.row_bytes));
    });
}

std::uintptr_t Codec::address_in_numpy(const ImageView &image) const {
    return in_python([&] {
        const py::dict interface = read_only(image).attr("__array_interface__");
        return py::tuple(interface["data"])[0].cast<std::uintptr_t>();
    });
}

} // namespace glc
