#include "bundle.hpp"

#include "failure.hpp"
#include "json.hpp"
#include "sha256.hpp"

namespace msal_deploy {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t format_version = 1;
constexpr const char* manifest = "manifest.json";
constexpr const char* remedy = "export the bundle again";

Axis axis_from(const Json& axis) {
    if (axis.is_object()) {
        return {axis.at("name").get<std::string>(), whole_number(axis.at("minimum")), whole_number(axis.at("maximum")),
                positive_number(axis.at("multiple"))};
    }
    const std::size_t fixed = whole_number(axis);
    return {"", fixed, fixed, 1};
}

// A bundle exported without the normalisation in its graph has a float32 image and other axes.
void check_tensor(const Json& tensor, const std::string& dtype, std::size_t channel_axis, std::size_t channels) {
    const auto name = tensor.at("name").get<std::string>(), found = tensor.at("dtype").get<std::string>();
    if (found != dtype) {
        throw_bad_input("Expected ", dtype, " for the graph's ", name, ", got ", found,
                        "; export the bundle with: msal-deploy export");
    }
    const Axis channel = axis_from(tensor.at("axes").at(channel_axis));
    if (channel.min != channels || channel.max != channels) {
        throw_bad_input("Expected ", channels, " channels on axis ", channel_axis, " of the graph's ", name, ", got ",
                        channel.min, " to ", channel.max, "; export the bundle with: msal-deploy export");
    }
}

Spec spec_from(const Json& field) {
    const Json &image = field.at("image"), &probability = field.at("probability");
    check_tensor(image, "uint8", 3, 3);
    check_tensor(probability, "float32", 1, 1);
    Spec spec;
    spec.image = image.at("name").get<std::string>();
    spec.probability = probability.at("name").get<std::string>();
    spec.batch = axis_from(image.at("axes").at(0));
    spec.height = axis_from(image.at("axes").at(1));
    spec.width = axis_from(image.at("axes").at(2));
    spec.microns_per_pixel = field.at("microns_per_pixel").get<double>();
    spec.threshold = static_cast<float>(field.at("threshold").get<double>());
    return spec;
}

Bundle bundle_from(const fs::path& folder, const Json& root) {
    if (const std::size_t version = whole_number(root.at("format_version")); version != format_version) {
        throw_bad_input("Expected format version ", format_version, " in ", (folder / manifest).string(), ", got ",
                        version, "; ", remedy);
    }
    Bundle bundle{folder, spec_from(root.at("spec")), {}};
    const Json& artifacts = root.at("artifacts");
    for (const auto& item : artifacts.items()) {
        bundle.artifacts[item.key()] = artifacts.at(item.key()).at("sha256").get<std::string>();
    }
    return bundle;
}

// A name such as ../x leads out of the folder. A link may lead anywhere, as in the cache of a model hub: its hash decides.
bool is_inside(const fs::path& name) {
    const fs::path plain = name.lexically_normal();
    return plain.is_relative() && !plain.empty() && *plain.begin() != "..";
}

}  // namespace

Bundle Bundle::read(const fs::path& folder) {
    std::error_code ignored;
    if (!fs::is_regular_file(folder / manifest, ignored)) {
        throw_bad_input(folder.string(), " is not a bundle (no ", manifest, "); create one with: msal-deploy export");
    }
    return read_json(folder / manifest, "a valid manifest", remedy,
                     [&](const Json& root) { return bundle_from(folder, root); });
}

fs::path Bundle::file(const std::string& name) const {
    const auto entry = artifacts.find(name);
    if (entry == artifacts.end()) {
        std::vector<std::string> names;
        for (const auto& [other, hash] : artifacts) names.push_back(other);
        throw_bad_input(name, " is not in ", path.string(), "; choose from: ", join(names, ", "));
    }
    const fs::path found = path / name;
    std::error_code ignored;
    if (!is_inside(name)) throw_bad_input(found.string(), " is outside the bundle; ", remedy);
    if (!fs::is_regular_file(found, ignored)) {
        throw_bad_input(found.string(), " is missing but listed in the manifest; ", remedy);
    }
    if (sha256(found) != entry->second) {
        throw_bad_input(found.string(), " has changed since export (SHA-256 differs); ", remedy);
    }
    return found;
}

void check_extent(const Axis& axis, std::size_t extent) {
    if (extent < axis.min || extent > axis.max) {
        throw_bad_input("Expected a ", axis.name, " from ", axis.min, " to ", axis.max, ", got ", extent,
                        "; use a size in that range");
    }
    if (extent % axis.multiple == 0) return;
    const std::size_t below = extent / axis.multiple * axis.multiple, above = below + axis.multiple;
    throw_bad_input("Expected a ", axis.name, " that is a multiple of ", axis.multiple, ", got ", extent, "; use ",
                    below ? below : above, " or ", above);
}

void check_shape(const Spec& spec, const Shape& shape) {
    check_extent(spec.batch, shape.batch);
    check_extent(spec.height, shape.height);
    check_extent(spec.width, shape.width);
}

}  // namespace msal_deploy
