// NVIDIA's management library: one GPU, at 0000:c1:00.0, whose power cannot be read.
#include <string.h>

typedef struct { unsigned gpu, memory; } Rates;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory;

int fake_starts = 0;

int nvmlInit_v2(void) { return fake_starts++, 0; }
int nvmlShutdown(void) { return fake_starts--, 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char* bus, void** gpu) {
    return *gpu = &fake_starts, strcmp(bus, "00000000:c1:00.0") == 0 ? 0 : 6;
}
int nvmlDeviceGetUtilizationRates(void* gpu, Rates* rates) { return rates->gpu = 87, rates->memory = 40, 0; }
int nvmlDeviceGetTemperature(void* gpu, int sensor, unsigned* celsius) { return *celsius = 71, sensor; }
int nvmlDeviceGetPowerUsage(void* gpu, unsigned* milliwatts) { return 3; }
int nvmlDeviceGetMemoryInfo_v2(void* gpu, Memory* memory) {
    if (memory->version != (sizeof(Memory) | 2u << 24)) return 25;
    return memory->used = 5ull << 30, 0;
}
