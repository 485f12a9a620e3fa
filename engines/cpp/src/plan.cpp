#include "plan.hpp"

#include <algorithm>
#include <array>
#include <cctype>

#include "failure.hpp"
#include "json.hpp"
#include "sha256.hpp"

namespace msal_deploy {

namespace {

constexpr std::size_t format_version = 1;
constexpr const char* again = "build it again with: msal-deploy build-trt BUNDLE --rebuild";
constexpr std::array<const char*, 4> known_flags{"version_compatible", "hardware_compatible", "tf32", "allow_wider"};

// Major, minor and patch: what comes after them does not change a plan's format.
using Numbers = std::vector<unsigned long>;

Numbers numbers(const std::string& version) {
    Numbers found;
    std::istringstream parts(version);
    std::string part;
    for (int index = 0; index < 3 && std::getline(parts, part, '.'); ++index) {
        const bool digits = !part.empty() && part.size() < 10 &&
                            std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
        if (digits) found.push_back(std::stoul(part));
    }
    return found;
}

std::string grouped(std::size_t number) {
    std::string digits = std::to_string(number);
    for (std::size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, ",");
    return digits;
}

std::string joined(const std::vector<std::string>& words, const std::string& between) {
    std::string all;
    for (const std::string& word : words) all += (all.empty() ? "" : between) + word;
    return all;
}

// As Python's shlex.quote.
std::string quoted(const std::string& word) {
    const auto plain = [](unsigned char c) {
        return c < 128 &&
               (std::isalnum(c) != 0 || std::string("@%+=:,./-_").find(static_cast<char>(c)) != std::string::npos);
    };
    if (!word.empty() && std::all_of(word.begin(), word.end(), plain)) return word;
    std::string inside;
    for (const char c : word) inside += c == '\'' ? std::string("'\"'\"'") : std::string(1, c);
    return "'" + inside + "'";
}

std::string px(const Shape& shape) {
    return text(shape.number, " × ", shape.height, " × ", shape.width, " px");
}

std::string px(const Profile& profile) {
    const std::string least = px(profile.minimum), most = px(profile.maximum);
    return least == most ? least : least + " to " + most;
}

Shape shape_from(const Field& field) {
    return {field[0].natural(), field[1].natural(), field[2].natural()};
}

Plan read(const Bundle& bundle, const std::filesystem::path& file) {
    const std::filesystem::path sidecar = file.string() + ".json";
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(sidecar, ignored)) {
        bad_input(file.string(), " has no ", sidecar.filename().string(),
                  " beside it, which says what it was built for; ", again);
    }
    const Document document(sidecar, again);
    const Field root = document.root(), profile = root["profile"], options = root["options"];
    if (const std::size_t version = root["format_version"].natural(); version != format_version) {
        bad_input(sidecar.string(), " has format version ", version, ", and only ", format_version, " is known; ",
                  again);
    }
    Plan plan;
    plan.file = file;
    plan.bundle = bundle.path;
    plan.backend = root["backend"].string();
    plan.backend_version = root["backend_version"].string();
    plan.gpu = root["gpu"].string_or("");
    plan.requested = root["requested"].string();
    plan.graph = root["graph"].string();
    plan.graph_sha256 = root["graph_sha256"].string();
    plan.plan_sha256 = root["plan_sha256"].string();
    plan.sm = root["sm"].strings();
    plan.profile = {shape_from(profile["minimum"]), shape_from(profile["optimum"]), shape_from(profile["maximum"])};
    if (plan.profile.optimum.number == 0) document.refuse("profile.optimum[0] is 0");
    plan.bytes = root["bytes"].natural();
    plan.workspace_mib = options.natural_or("workspace_mib", 0);
    for (const char* flag : known_flags) {
        if (options.has(flag) && options[flag].boolean()) plan.flags.emplace_back(flag);
    }
    return plan;
}

std::string wrong_bytes(const Plan& plan) {
    const std::size_t size = std::filesystem::file_size(plan.file);
    if (size != plan.bytes) {
        const char* what = size < plan.bytes ? "truncated" : "not the plan that was built";
        return text("has ", grouped(size), " bytes and should have ", grouped(plan.bytes), ": it is ", what);
    }
    return sha256(plan.file) == plan.plan_sha256 ? "" : "was changed after it was built (SHA-256 differs)";
}

std::string wrong_graph(const Bundle& bundle, const Plan& plan) {
    const auto entry = bundle.artifacts.find(plan.graph);
    if (entry == bundle.artifacts.end()) {
        return text("was built from ", plan.graph, ", which ", bundle.path.string(), " does not hold");
    }
    return entry->second == plan.graph_sha256 ? "" : text("was built from another ", plan.graph, " than the bundle's");
}

std::string wrong_version(const Plan& plan, const std::string& version) {
    const Numbers built = numbers(plan.backend_version), here = numbers(version);
    const bool same_major = !built.empty() && !here.empty() && built[0] == here[0];
    if (built == here || (plan.has("version_compatible") && same_major && here >= built)) return "";
    return text("was built by ", plan.backend, " ", plan.backend_version, " and not ", version);
}

std::string wrong_gpu(const Plan& plan, const std::string& sm) {
    const bool listed = std::find(plan.sm.begin(), plan.sm.end(), sm) != plan.sm.end();
    if (listed || (plan.has("hardware_compatible") && numbers(sm) >= Numbers{8, 0})) return "";
    return text("was built for compute capability ", joined(plan.sm, ", "), " and not ", sm);
}

// A plan is found by its name, so a copy under another name would be run as something that it is not.
std::string wrong_name(const Plan& plan) {
    const std::string name = plan.file.filename().string();
    const std::string start = "model." + plan.requested + ".", end = "." + plan.backend + ".plan";
    const bool good = name.compare(0, start.size(), start) == 0 && name.size() > end.size() &&
                      name.compare(name.size() - end.size(), end.size(), end) == 0;
    return good ? "" : text("was built in ", plan.requested, " by ", plan.backend);
}

// Returns why the plan cannot be used on the machine, or nothing.
std::string wrong(const Bundle& bundle, const Plan& plan, const Machine& machine) {
    std::string why = wrong_name(plan);
    if (why.empty()) why = wrong_bytes(plan);
    if (why.empty()) why = wrong_graph(bundle, plan);
    if (why.empty()) why = wrong_version(plan, machine.version);
    return why.empty() ? wrong_gpu(plan, machine.sm) : why;
}

// The plans of the machine's backend, by name.
std::vector<std::filesystem::path> plans(const Bundle& bundle, const Machine& machine) {
    const std::string end = "." + machine.backend + ".plan";
    std::vector<std::filesystem::path> found;
    for (const auto& entry : std::filesystem::directory_iterator(bundle.path)) {
        const std::string name = entry.path().filename().string();
        if (name[0] != '.' && name.size() > end.size() && name.substr(name.size() - end.size()) == end) {
            found.push_back(entry.path());
        }
    }
    std::sort(found.begin(), found.end());
    return found;
}

bool serves(const Bundle& bundle, const std::filesystem::path& file, const std::string& sm) {
    try {
        return wrong_gpu(read(bundle, file), sm).empty();
    } catch (const Failure&) {
        return false;  // a sidecar that cannot be read: the plan for this GPU is what is missing
    }
}

[[noreturn]] void no_plan(const Bundle& bundle, const std::string& precision, const Machine& machine) {
    std::vector<std::string> others;
    for (const std::filesystem::path& file : plans(bundle, machine)) others.push_back(file.filename().string());
    bad_input(bundle.path.string(), " has no ", precision, " plan of ", machine.backend, " for compute capability ",
              machine.sm, others.empty() ? "" : " (it has " + joined(others, ", ") + ")",
              "; build it with: msal-deploy build-trt ", quoted(bundle.path.string()), " --", precision, " --backend ",
              machine.backend);
}

// The GPU's own plan is taken before one that was built for several of them.
std::filesystem::path choose(const Bundle& bundle, const std::string& precision, const Machine& machine) {
    std::string sm = machine.sm;
    sm.erase(std::remove(sm.begin(), sm.end(), '.'), sm.end());
    const std::string start = "model." + precision + ".";
    const std::filesystem::path own = bundle.path / text(start, "sm", sm, ".", machine.backend, ".plan");
    std::error_code ignored;
    if (std::filesystem::is_regular_file(own, ignored)) return own;
    for (const std::filesystem::path& file : plans(bundle, machine)) {
        const bool precise = file.filename().string().compare(0, start.size(), start) == 0;
        if (precise && serves(bundle, file, machine.sm)) return file;
    }
    no_plan(bundle, precision, machine);
}

std::string side(const Shape& shape) {
    return shape.height == shape.width ? text(shape.height) : text(shape.height, "x", shape.width);
}

Shape each(const std::size_t& (*pick)(const std::size_t&, const std::size_t&), const Shape& one, const Shape& other) {
    return {pick(one.number, other.number), pick(one.height, other.height), pick(one.width, other.width)};
}

}  // namespace

bool Plan::has(const std::string& flag) const {
    return std::find(flags.begin(), flags.end(), flag) != flags.end();
}

Plan find_plan(const Bundle& bundle, const std::string& precision, const Machine& machine) {
    const std::filesystem::path file = choose(bundle, precision, machine);
    const Plan plan = read(bundle, file);
    const std::string why = wrong(bundle, plan, machine);
    if (!why.empty()) {
        bad_input(file.string(), " ", why, "; build it again with: ", rebuild_command(plan, plan.profile));
    }
    return plan;
}

void check_profile(const Plan& plan, const Shape& shape) {
    const Shape &low = plan.profile.minimum, &high = plan.profile.maximum;
    const auto within = [](std::size_t low_, std::size_t n, std::size_t high_) { return low_ <= n && n <= high_; };
    if (within(low.number, shape.number, high.number) && within(low.height, shape.height, high.height) &&
        within(low.width, shape.width, high.width)) {
        return;
    }
    const Profile widened{each(std::min<std::size_t>, low, shape), plan.profile.optimum,
                          each(std::max<std::size_t>, high, shape)};
    bad_input(plan.file.string(), " takes ", px(plan.profile), " and not ", px(shape),
              "; build it for that too with: ", rebuild_command(plan, widened));
}

std::string rebuild_command(const Plan& plan, const Profile& profile) {
    std::vector<std::string> words{"msal-deploy build-trt", quoted(plan.bundle.string()), "--" + plan.requested};
    if (!plan.gpu.empty()) words.push_back("--gpu " + quoted(plan.gpu));
    words.push_back("--backend " + plan.backend);
    const Shape &low = profile.minimum, &best = profile.optimum, &high = profile.maximum;
    words.push_back(text("--batch ", low.number, ":", best.number, ":", high.number));
    words.push_back(text("--size ", side(low), ":", side(best), ":", side(high)));
    if (plan.workspace_mib > 0) words.push_back(text("--workspace ", plan.workspace_mib));
    for (std::string flag : plan.flags) {
        std::replace(flag.begin(), flag.end(), '_', '-');
        words.push_back("--" + flag);
    }
    return joined(words, " ");
}

}  // namespace msal_deploy
