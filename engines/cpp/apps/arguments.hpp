// What msal-segment was told on its command line.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "msal_deploy/segmenter.hpp"

struct Arguments {
    std::string model;
    std::vector<std::string> images;
    std::string precision;  // empty: the only graph that the folder has
    msal_deploy::Options options;
    std::string mask;
    std::string masks;
    std::string probability;
    std::optional<float> threshold;  // of the model, unless it was given
    std::size_t batch = 1;
    std::size_t bench = 0;  // timed calls; 0: none
    bool help = false;
};

extern const char* const usage;

// Fills `given` from the command line and returns what is wrong with that, or nothing.
std::string parse(int count, char** words, Arguments& given);
