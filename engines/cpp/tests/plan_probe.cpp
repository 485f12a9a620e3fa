// Prints what the checks of a plan's metadata report, so that a test can compare every message with Python's.
//     plan_probe BUNDLE PRECISION BACKEND VERSION SM N H W
#include "bundle.hpp"
#include "check.hpp"
#include "failure.hpp"
#include "plan_metadata.hpp"

using namespace msal_deploy;

int main(int count, char** words) try {
    CHECK(count == 9);
    const Bundle bundle = Bundle::read(words[1]);
    const Plan plan = read_plan(bundle, words[2], {words[3], words[4], words[5]});
    check_profile(plan.about, {std::stoul(words[6]), std::stoul(words[7]), std::stoul(words[8])});
    std::puts("usable");
    return 0;
} catch (const Failure& failure) {
    std::puts(failure.what());
    return static_cast<int>(failure.code());
}
