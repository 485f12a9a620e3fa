#include "backend.hpp"

#include "failure.hpp"

namespace msal_deploy {

void Backend::prepare(const Shape& shape) {
    const std::vector<std::uint8_t> black(pixels_of(shape) * 3);
    std::vector<float> probability(pixels_of(shape));
    infer(black.data(), shape, probability.data());
}

void Backend::infer_on_device(const void*, const Shape&, float*, void*) {
    throw_bad_input("This backend does not read GPU memory; call segment, or open the backend tensorrt");
}

void check_names(const char* kind, const std::vector<std::string>& names, const std::string& expected) {
    if (names.size() == 1 && names[0] == expected) return;
    throw_bad_input("Expected '", expected, "' as the graph's only ", kind, ", got '", join(names, "', '"),
                    "'; export the bundle with: msal-deploy export");
}

}  // namespace msal_deploy
