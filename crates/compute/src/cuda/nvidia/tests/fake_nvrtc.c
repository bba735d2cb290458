// An NVRTC whose machine code is the text itself.
#include "fake.h"

int fake_major = 12, fake_minor = 8, fake_compilations = 0;
static const int architectures[] = {75, 80, 86, 89, 90, 100, 120};

struct program { char* text; char* image; };

int nvrtcVersion(int* major, int* minor) { return *major = fake_major, *minor = fake_minor, 0; }
int nvrtcGetNumSupportedArchs(int* count) { return *count = 7, 0; }
int nvrtcGetSupportedArchs(int* out) { return memcpy(out, architectures, sizeof architectures), 0; }
int nvrtcCreateProgram(struct program** program, const char* text, const char* name, int headers, const char* const* h, const char* const* n) {
    (void)name; (void)h; (void)n;
    if (headers) return 3;
    *program = calloc(1, sizeof **program);
    return (*program)->text = strdup(text), 0;
}
int nvrtcDestroyProgram(struct program** program) {
    free((*program)->text);
    free((*program)->image);
    free(*program);
    return *program = NULL, 0;
}
int nvrtcCompileProgram(struct program* program, int count, const char* const* options) {
    fake_compilations++;
    size_t bytes = strlen(program->text) + 4096;
    program->image = malloc(bytes);
    int at = snprintf(program->image, bytes, "FAKE");
    for (int i = 0; i < count; i++) at += snprintf(program->image + at, bytes - at, " %s", options[i]);
    snprintf(program->image + at, bytes - at, "\n%s", program->text);
    return strstr(program->text, "no such type") ? 6 : 0;
}
static const char LOG[] = "bias.cu(1): error: no such type\n";
int nvrtcGetProgramLogSize(struct program* program, size_t* bytes) { (void)program; return *bytes = sizeof LOG, 0; }
int nvrtcGetProgramLog(struct program* program, char* log) { (void)program; return memcpy(log, LOG, sizeof LOG), 0; }
int nvrtcGetCUBINSize(struct program* program, size_t* bytes) { return *bytes = strlen(program->image) + 1, 0; }
int nvrtcGetCUBIN(struct program* program, char* image) { return strcpy(image, program->image), 0; }
int nvrtcGetPTXSize(struct program* program, size_t* bytes) { return nvrtcGetCUBINSize(program, bytes); }
int nvrtcGetPTX(struct program* program, char* image) { return nvrtcGetCUBIN(program, image); }
