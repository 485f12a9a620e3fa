// A program in C99 that uses the library: reads an image of raw RGB, writes its probabilities and counts its nuclei.
//     segment_in_c MODEL_FOLDER PRECISION IMAGE.rgb HEIGHT WIDTH PROBABILITY.raw
#include <msal_deploy.h>

#include <stdio.h>
#include <stdlib.h>

static int read_file(const char* name, uint8_t* bytes, size_t size) {
    FILE* file = fopen(name, "rb");
    if (file == NULL) return 0;
    const size_t got = fread(bytes, 1, size, file);
    return fclose(file) == 0 && got == size;
}

static int write_file(const char* name, const void* bytes, size_t size) {
    FILE* file = fopen(name, "wb");
    if (file == NULL) return 0;
    const size_t put = fwrite(bytes, 1, size, file);
    return fclose(file) == 0 && put == size;
}

// Writes the probabilities, and returns the number of nuclei, or -1 after an error.
static int32_t segment(const msal_deploy_segmenter* segmenter, const msal_deploy_image* image, float* probability,
                       int32_t* labels, msal_deploy_error* error) {
    const uint64_t pixels = image->height * image->width;
    msal_deploy_spec spec;
    msal_deploy_separation separation;
    int32_t nuclei = 0;
    msal_deploy_separation_init(&separation, sizeof separation);
    if (msal_deploy_get_spec(segmenter, &spec, sizeof spec, error) != MSAL_DEPLOY_OK) return -1;
    separation.threshold = spec.threshold;
    separation.microns_per_pixel = spec.microns_per_pixel;
    if (msal_deploy_segment(segmenter, image, NULL, probability, pixels, error) != MSAL_DEPLOY_OK) return -1;
    if (msal_deploy_labels(probability, image->height, image->width, &separation, labels, &nuclei, error) !=
        MSAL_DEPLOY_OK) {
        return -1;
    }
    return nuclei;
}

int main(int count, char** words) {
    if (count != 7) {
        fputs("segment_in_c MODEL_FOLDER PRECISION IMAGE.rgb HEIGHT WIDTH PROBABILITY.raw\n", stderr);
        return MSAL_DEPLOY_BAD_INPUT;
    }
    const size_t height = strtoul(words[4], NULL, 10), width = strtoul(words[5], NULL, 10), pixels = height * width;
    uint8_t* rgb = malloc(pixels * 3);
    float* probability = malloc(pixels * sizeof *probability);
    int32_t* labels = malloc(pixels * sizeof *labels);
    msal_deploy_segmenter* segmenter = NULL;
    msal_deploy_error error = {MSAL_DEPLOY_FAILED, "a file or the memory"};
    int32_t nuclei = -1;

    if (rgb != NULL && probability != NULL && labels != NULL && read_file(words[3], rgb, pixels * 3) &&
        msal_deploy_open(words[1], words[2], NULL, &segmenter, &error) == MSAL_DEPLOY_OK) {
        const msal_deploy_image image = {rgb, height, width, 0, MSAL_DEPLOY_RGB, 0};
        nuclei = segment(segmenter, &image, probability, labels, &error);
    }
    if (nuclei >= 0 && write_file(words[6], probability, pixels * sizeof *probability)) {
        printf("%s: %d nuclei\n", msal_deploy_engine(segmenter), (int)nuclei);
        error.code = MSAL_DEPLOY_OK;
    } else {
        fprintf(stderr, "Failed: %s\n", error.message);
    }
    msal_deploy_close(segmenter);
    free(labels);
    free(probability);
    free(rgb);
    return error.code;
}
