#include "plan_metadata.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <fstream>

#include "failure.hpp"
#include "json.hpp"
#include "sha256.hpp"

namespace msal_deploy {

namespace {

constexpr std::size_t format_version = 1;
constexpr const char* remedy = "rebuild the plan with: msal-deploy build-trt BUNDLE --rebuild";
constexpr std::array<const char*, 4> known_flags{"version_compatible", "hardware_compatible", "tf32", "allow_wider"};

// Major, minor and patch. The rest of a version does not change a plan's format.
using Version = std::vector<unsigned long>;

Version parse_version(const std::string& version) {
    Version parsed;
    std::istringstream parts(version);
    std::string part;
    for (int index = 0; index < 3 && std::getline(parts, part, '.'); ++index) {
        const bool digits = !part.empty() && part.size() < 10 &&
                            std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
        if (digits) parsed.push_back(std::stoul(part));
    }
    return parsed;
}

std::string with_thousands_separators(std::size_t number) {
    std::string digits = std::to_string(number);
    for (std::size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, ",");
    return digits;
}

bool starts_with(const std::string& text, const std::string& start) {
    return text.compare(0, start.size(), start) == 0;
}

bool ends_with(const std::string& text, const std::string& end) {
    return text.size() > end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// Like Python's shlex.quote.
std::string shell_quote(const std::string& word) {
    const auto plain = [](unsigned char c) {
        return c < 128 &&
               (std::isalnum(c) != 0 || std::string("@%+=:,./-_").find(static_cast<char>(c)) != std::string::npos);
    };
    if (!word.empty() && std::all_of(word.begin(), word.end(), plain)) return word;
    std::string inside;
    for (const char c : word) inside += c == '\'' ? std::string("'\"'\"'") : std::string(1, c);
    return "'" + inside + "'";
}

std::string describe(const Shape& shape) {
    return concat(shape.batch, " × ", shape.height, " × ", shape.width, " px");
}

std::string describe(const Profile& profile) {
    const std::string min = describe(profile.min), max = describe(profile.max);
    return min == max ? min : min + " to " + max;
}

Shape shape_from(const Json& field) {
    return {whole_number(field.at(0)), whole_number(field.at(1)), whole_number(field.at(2))};
}

Profile profile_from(const Json& field) {
    positive_number(field.at("optimum").at(0));  // the size of the chunks that a batch is computed in
    return {shape_from(field.at("minimum")), shape_from(field.at("optimum")), shape_from(field.at("maximum"))};
}

PlanMetadata metadata_from(const std::filesystem::path& sidecar, const Json& root) {
    if (const std::size_t version = whole_number(root.at("format_version")); version != format_version) {
        throw_bad_input("Expected format version ", format_version, " in ", sidecar.string(), ", got ", version, "; ",
                        remedy);
    }
    PlanMetadata plan;
    plan.backend = root.at("backend").get<std::string>();
    plan.backend_version = root.at("backend_version").get<std::string>();
    plan.gpu = root.at("gpu").is_null() ? "" : root.at("gpu").get<std::string>();
    plan.requested = root.at("requested").get<std::string>();
    plan.graph = root.at("graph").get<std::string>();
    plan.graph_sha256 = root.at("graph_sha256").get<std::string>();
    plan.plan_sha256 = root.at("plan_sha256").get<std::string>();
    plan.sm = root.at("sm").get<std::vector<std::string>>();
    plan.profile = profile_from(root.at("profile"));
    plan.bytes = whole_number(root.at("bytes"));
    const Json& options = root.at("options");
    const auto workspace = options.find("workspace_mib");
    if (workspace != options.end() && !workspace->is_null()) plan.workspace_mib = whole_number(*workspace);
    for (const char* flag : known_flags) {
        if (options.value(flag, false)) plan.flags.emplace_back(flag);
    }
    return plan;
}

PlanMetadata read_metadata(const Bundle& bundle, const std::filesystem::path& file) {
    const std::filesystem::path sidecar = file.string() + ".json";
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(sidecar, ignored)) {
        throw_bad_input(file.string(), " has no metadata (", sidecar.filename().string(), " is missing); ", remedy);
    }
    // What the manifest lists must not have changed; a plan of a build kit may be unlisted.
    if (bundle.artifacts.count(sidecar.filename().string()) != 0) bundle.file(sidecar.filename().string());
    PlanMetadata plan = read_json(sidecar, "valid plan metadata", remedy,
                                  [&](const Json& root) { return metadata_from(sidecar, root); });
    const auto listed = bundle.artifacts.find(file.filename().string());
    if (listed != bundle.artifacts.end() && listed->second != plan.plan_sha256) {
        throw_bad_input(sidecar.string(), " describes another plan than the manifest lists; ", remedy);
    }
    plan.file = file;
    plan.bundle = bundle.path;
    return plan;
}

std::string check_size(const PlanMetadata& plan) {
    const std::size_t size = std::filesystem::file_size(plan.file);
    if (size == plan.bytes) return "";
    return concat(size < plan.bytes ? "is truncated" : "is larger than when it was built", " (",
                  with_thousands_separators(size), " bytes, expected ", with_thousands_separators(plan.bytes), ")");
}

// Reads the plan, whose size is as expected.
std::string check_bytes(Plan& plan) {
    plan.bytes.resize(plan.about.bytes);
    std::ifstream stream(plan.about.file, std::ios::binary);
    if (!stream.read(plan.bytes.data(), static_cast<std::streamsize>(plan.bytes.size()))) {
        throw_bad_input(plan.about.file.string(), " is not readable to its end; check the disk and its permissions");
    }
    const std::string hash = sha256_of({plan.bytes.data(), plan.bytes.size()});
    return hash == plan.about.plan_sha256 ? "" : "has changed since it was built (SHA-256 differs)";
}

std::string check_graph(const Bundle& bundle, const PlanMetadata& plan) {
    const auto entry = bundle.artifacts.find(plan.graph);
    if (entry == bundle.artifacts.end()) {
        return concat("was built from ", plan.graph, ", which is not in ", bundle.path.string());
    }
    return entry->second == plan.graph_sha256 ? "" : concat("was built from a different ", plan.graph);
}

std::string check_version(const PlanMetadata& plan, const std::string& version) {
    const Version built = parse_version(plan.backend_version), current = parse_version(version);
    const bool same_major = !built.empty() && !current.empty() && built[0] == current[0];
    if (built == current || (plan.has("version_compatible") && same_major && current >= built)) return "";
    return concat("was built by ", plan.backend, " ", plan.backend_version, ", not ", version);
}

std::string check_gpu(const PlanMetadata& plan, const std::string& sm) {
    const bool listed = std::find(plan.sm.begin(), plan.sm.end(), sm) != plan.sm.end();
    if (listed || (plan.has("hardware_compatible") && parse_version(sm) >= Version{8, 0})) return "";
    return concat("was built for compute capability ", join(plan.sm, ", "), ", not ", sm);
}

// A plan is found by its name, so a renamed copy would run as something that it is not.
std::string check_name(const PlanMetadata& plan) {
    const std::string name = plan.file.filename().string();
    const bool good =
        starts_with(name, concat("model.", plan.requested, ".")) && ends_with(name, concat(".", plan.backend, ".plan"));
    return good ? "" : concat("was built in ", plan.requested, " by ", plan.backend, ", not what its name says");
}

// Returns why the machine cannot use the plan, or an empty string. Each check returns the same.
std::string check(const Bundle& bundle, Plan& plan, const Machine& machine) {
    std::string reason = check_name(plan.about);
    if (reason.empty()) reason = check_size(plan.about);
    if (reason.empty()) reason = check_bytes(plan);
    if (reason.empty()) reason = check_graph(bundle, plan.about);
    if (reason.empty()) reason = check_version(plan.about, machine.version);
    return reason.empty() ? check_gpu(plan.about, machine.sm) : reason;
}

// Returns the plans of the machine's backend, sorted by name.
std::vector<std::filesystem::path> plans(const Bundle& bundle, const Machine& machine) {
    std::vector<std::filesystem::path> found;
    for (const auto& entry : std::filesystem::directory_iterator(bundle.path)) {
        const std::string name = entry.path().filename().string();
        if (name[0] != '.' && ends_with(name, concat(".", machine.backend, ".plan"))) found.push_back(entry.path());
    }
    std::sort(found.begin(), found.end());
    return found;
}

bool supports(const Bundle& bundle, const std::filesystem::path& file, const std::string& sm) {
    try {
        return check_gpu(read_metadata(bundle, file), sm).empty();
    } catch (const Failure&) {
        return false;  // its sidecar is not readable: report that this GPU has no plan
    }
}

[[noreturn]] void throw_no_plan(const Bundle& bundle, const std::string& precision, const Machine& machine) {
    std::vector<std::string> others;
    for (const std::filesystem::path& file : plans(bundle, machine)) others.push_back(file.filename().string());
    throw_bad_input(bundle.path.string(), " has no ", precision, " plan for ", machine.backend,
                    " and compute capability ", machine.sm,
                    others.empty() ? "" : concat(" (found: ", join(others, ", "), ")"),
                    "; build one with: msal-deploy build-trt ", shell_quote(bundle.path.string()), " --", precision,
                    " --backend ", machine.backend);
}

// Prefers the plan of this GPU to one that was built for several.
std::filesystem::path choose(const Bundle& bundle, const std::string& precision, const Machine& machine) {
    std::string sm = machine.sm;
    sm.erase(std::remove(sm.begin(), sm.end(), '.'), sm.end());
    const std::string start = "model." + precision + ".";
    const std::filesystem::path own = bundle.path / concat(start, "sm", sm, ".", machine.backend, ".plan");
    std::error_code ignored;
    if (std::filesystem::is_regular_file(own, ignored)) return own;
    for (const std::filesystem::path& file : plans(bundle, machine)) {
        if (starts_with(file.filename().string(), start) && supports(bundle, file, machine.sm)) return file;
    }
    throw_no_plan(bundle, precision, machine);
}

std::string side(const Shape& shape) {
    return shape.height == shape.width ? concat(shape.height) : concat(shape.height, "x", shape.width);
}

Shape each(const std::size_t& (*pick)(const std::size_t&, const std::size_t&), const Shape& one, const Shape& other) {
    return {pick(one.batch, other.batch), pick(one.height, other.height), pick(one.width, other.width)};
}

}  // namespace

bool PlanMetadata::has(const std::string& flag) const {
    return std::find(flags.begin(), flags.end(), flag) != flags.end();
}

Plan read_plan(const Bundle& bundle, const std::string& precision, const Machine& machine) {
    const std::filesystem::path file = choose(bundle, precision, machine);
    Plan plan{read_metadata(bundle, file), {}};
    const std::string reason = check(bundle, plan, machine);
    if (!reason.empty()) {
        throw_bad_input(file.string(), " ", reason,
                        "; rebuild it with: ", rebuild_command(plan.about, plan.about.profile));
    }
    return plan;
}

void check_profile(const PlanMetadata& plan, const Shape& shape) {
    const Shape &min = plan.profile.min, &max = plan.profile.max;
    const auto within = [](std::size_t low, std::size_t n, std::size_t high) { return low <= n && n <= high; };
    if (within(min.batch, shape.batch, max.batch) && within(min.height, shape.height, max.height) &&
        within(min.width, shape.width, max.width)) {
        return;
    }
    const Profile widened{each(std::min<std::size_t>, min, shape), plan.profile.opt,
                          each(std::max<std::size_t>, max, shape)};
    throw_bad_input(plan.file.string(), " accepts ", describe(plan.profile), ", not ", describe(shape),
                    "; rebuild it with: ", rebuild_command(plan, widened));
}

std::string rebuild_command(const PlanMetadata& plan, const Profile& profile) {
    std::vector<std::string> words{"msal-deploy build-trt", shell_quote(plan.bundle.string()), "--" + plan.requested};
    if (!plan.gpu.empty()) words.push_back("--gpu " + shell_quote(plan.gpu));
    words.push_back("--backend " + plan.backend);
    const auto& [min, opt, max] = profile;
    words.push_back(concat("--batch ", min.batch, ":", opt.batch, ":", max.batch));
    words.push_back(concat("--size ", side(min), ":", side(opt), ":", side(max)));
    if (plan.workspace_mib > 0) words.push_back(concat("--workspace ", plan.workspace_mib));
    for (std::string flag : plan.flags) {
        std::replace(flag.begin(), flag.end(), '_', '-');
        words.push_back("--" + flag);
    }
    return join(words, " ");
}

}  // namespace msal_deploy
