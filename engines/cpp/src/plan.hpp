// Plan: a built TensorRT engine in a bundle, and the sidecar that says what it is. Read before the plan is loaded:
// TensorRT itself answers with an error number, or computes something else. The checks and their sentences are those of
// msal_deploy/plan.py. Nothing here needs TensorRT.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "bundle.hpp"

namespace msal_deploy {

// Where a plan is to run.
struct Machine {
    std::string backend;  // "tensorrt" or "tensorrt-rtx"
    std::string version;  // of that, such as "10.13.3"
    std::string sm;       // compute capability of the GPU, such as "8.6"
};

struct Profile {
    Shape minimum, optimum, maximum;
};

struct Plan {
    std::filesystem::path file;
    std::filesystem::path bundle;
    std::string backend, backend_version, gpu, requested, graph, graph_sha256, plan_sha256;
    std::vector<std::string> sm;
    Profile profile;
    std::size_t bytes = 0;
    std::size_t workspace_mib = 0;  // 0: what the backend allows
    std::vector<std::string> flags;

    bool has(const std::string& flag) const;
};

// Returns the plan of a bundle for a precision and a machine, after checking that it can be used there. Throws Failure.
Plan find_plan(const Bundle& bundle, const std::string& precision, const Machine& machine);

// Throws Failure unless the plan takes images of this shape.
void check_profile(const Plan& plan, const Shape& shape);

// Returns the command that builds the plan again, ready to be pasted into a shell.
std::string rebuild_command(const Plan& plan, const Profile& profile);

}  // namespace msal_deploy
