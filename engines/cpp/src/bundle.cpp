#include "bundle.hpp"

#include "failure.hpp"
#include "json.hpp"
#include "sha256.hpp"

namespace msal_deploy {

namespace {

constexpr std::size_t format_version = 1;
constexpr const char* manifest = "manifest.json";

Axis axis_from(const Field& field) {
    if (field.is_object()) {
        const std::size_t multiple = field["multiple"].natural();
        if (multiple == 0) bad_input("An axis in ", manifest, " has the multiple 0; export the bundle again");
        return {field["name"].string(), field["minimum"].natural(), field["maximum"].natural(), multiple};
    }
    const std::size_t fixed = field.natural();
    return {"", fixed, fixed, 1};
}

// The type in a bundle for hosts that normalise by themselves is float32, and the axes are others.
void check_tensor(const Field& tensor, const std::string& type, std::size_t channel_axis, std::size_t channels) {
    const std::string name = tensor["name"].string();
    const std::string found = tensor["dtype"].string();
    if (found != type) {
        bad_input("The graph's ", name, " is ", found, " and not ", type,
                  "; export it for hosts that leave the normalisation to the graph: msal-deploy export");
    }
    const Axis channel = axis_from(tensor["axes"][channel_axis]);
    if (channel.minimum != channels || channel.maximum != channels) {
        bad_input("The graph's ", name, " has not ", channels, " channels on axis ", channel_axis,
                  "; it is not one of msal-deploy's");
    }
}

Spec spec_from(const Field& field) {
    const Field image = field["image"], probability = field["probability"];
    check_tensor(image, "uint8", 3, 3);
    check_tensor(probability, "float32", 1, 1);
    Spec spec;
    spec.image = image["name"].string();
    spec.probability = probability["name"].string();
    spec.number = axis_from(image["axes"][0]);
    spec.height = axis_from(image["axes"][1]);
    spec.width = axis_from(image["axes"][2]);
    spec.microns_per_pixel = field["microns_per_pixel"].number();
    spec.threshold = static_cast<float>(field["threshold"].number());
    return spec;
}

void check_extent(const Axis& axis, std::size_t extent) {
    if (extent < axis.minimum || extent > axis.maximum) {
        bad_input("The ", axis.name, " is ", extent, "; it must lie between ", axis.minimum, " and ", axis.maximum);
    }
    if (extent % axis.multiple == 0) return;
    const std::size_t below = extent / axis.multiple * axis.multiple, above = below + axis.multiple;
    bad_input("The ", axis.name, " is ", extent, ", no multiple of ", axis.multiple, "; use ", below ? below : above,
              " or ", above);
}

}  // namespace

Bundle Bundle::read(const std::filesystem::path& folder) {
    const std::filesystem::path file = folder / manifest;
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(file, ignored)) {
        bad_input(folder.string(), " is no bundle (it has no ", manifest, "); make one with: msal-deploy export");
    }
    const Document document(file, "export the bundle again");
    const Field root = document.root();
    if (const std::size_t version = root["format_version"].natural(); version != format_version) {
        bad_input(folder.string(), " has format version ", version, ", and only ", format_version,
                  " can be read; export the bundle again");
    }
    Bundle bundle{folder, spec_from(root["spec"]), {}};
    const Field artifacts = root["artifacts"];
    for (const std::string& name : artifacts.keys()) bundle.artifacts[name] = artifacts[name]["sha256"].string();
    return bundle;
}

std::filesystem::path Bundle::file(const std::string& name) const {
    const auto entry = artifacts.find(name);
    if (entry == artifacts.end()) {
        std::string names;
        for (const auto& [other, hash] : artifacts) names += (names.empty() ? "" : ", ") + other;
        bad_input(path.string(), " holds no ", name, "; it has: ", names);
    }
    const std::filesystem::path wanted = path / name;
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(wanted, ignored)) {
        bad_input(wanted.string(), " is named in the manifest and missing; export the bundle again");
    }
    if (sha256(wanted) != entry->second) {
        bad_input(wanted.string(), " is not the file that the manifest describes (SHA-256 differs); ",
                  "export the bundle again");
    }
    return wanted;
}

void check_shape(const Spec& spec, const Shape& shape) {
    check_extent(spec.number, shape.number);
    check_extent(spec.height, shape.height);
    check_extent(spec.width, shape.width);
}

}  // namespace msal_deploy
