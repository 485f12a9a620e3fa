// PlanMetadata: what the JSON sidecar of a plan (a built TensorRT engine) says about it. It is checked before the plan
// is loaded, because TensorRT itself reports a wrong plan as an error number, or runs it with wrong results. The checks
// and their messages are those of the Python package. This file does not need TensorRT.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "bundle.hpp"

namespace msal_deploy {

// The machine that is to run a plan.
struct Machine {
    std::string backend;  // "tensorrt" or "tensorrt-rtx"
    std::string version;  // version of the backend, such as "10.13.3"
    std::string sm;       // compute capability of the GPU, such as "8.6"
};

// An optimization profile. The sidecar calls its shapes minimum, optimum and maximum.
struct Profile {
    Shape min, opt, max;
};

struct PlanMetadata {
    std::filesystem::path file;  // the plan
    std::filesystem::path bundle;
    std::string backend, backend_version, gpu, requested, graph, graph_sha256, plan_sha256;
    std::vector<std::string> sm;  // compute capabilities that the plan was built for
    Profile profile;
    std::size_t bytes = 0;
    std::size_t workspace_mib = 0;  // 0: the backend's default
    std::vector<std::string> flags;

    bool has(const std::string& flag) const;
};

// A plan that was read once: the bytes are those whose hash was checked.
struct Plan {
    PlanMetadata about;
    std::vector<char> bytes;
};

// Returns the plan of a bundle for a precision and a machine. Throws Failure if there is none or the machine cannot use
// it.
Plan read_plan(const Bundle& bundle, const std::string& precision, const Machine& machine);

// Throws Failure unless the plan accepts images of this shape.
void check_profile(const PlanMetadata& plan, const Shape& shape);

// Returns the command that rebuilds the plan, ready to paste into a shell.
std::string rebuild_command(const PlanMetadata& plan, const Profile& profile);

}  // namespace msal_deploy
