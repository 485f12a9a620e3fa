// The command line of msal-segment.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "msal_deploy/segmenter.hpp"

struct Arguments {
    std::string model;
    std::vector<std::string> images;
    std::string precision;  // empty: that of the only graph in the folder
    msal_deploy::Options options;
    std::string mask;
    std::string masks;
    std::string probability;
    std::string labels;
    std::optional<float> threshold;  // empty: the model's
    msal_deploy::Tiling tiling;
    std::size_t batch = 1;
    std::size_t bench = 0;  // timed calls; 0: do not time
    std::string help;       // the help text if --help was given; everything else is then empty
};

// Parses the command line. Returns bad_input, with a message on one line, if it is not valid.
msal_deploy::Result<Arguments> parse(int count, const char* const* words);
