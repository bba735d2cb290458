// A libcuda whose GPU is the host's memory.
#include "fake.h"

// What a test sets before the driver is opened, and reads afterwards.
int fake_version = 12080, fake_init = 0, fake_devices = 1, fake_major = 8, fake_minor = 9, fake_pools = 1;
size_t fake_total = 1 << 28; // bytes of device memory
int fake_fail = 0;           // the status of the next piece of work that is waited for
size_t fake_used = 0, fake_pinned = 0;
int fake_alive = 0; // streams, events, modules, contexts and graphs
int fake_graphs = 0, fake_graph_starts = 0, fake_graph_changes = 0;
int fake_capture = 0, fake_instantiate = 0, fake_change = 0; // the status of the end of a capture and of what follows
int fake_launches = 0;
unsigned fake_last_launch[7]; // grid, block, shared
unsigned fake_last_values[4]; // first words of the first arguments of a kernel that is not known
int fake_opted = 0;           // dynamic shared memory that was asked for

#define FAKE_ERROR_OUT_OF_MEMORY 2
#define STICKY 719

struct item {
    work run;
    void* data;
    struct item* next;
};
static struct item *head, **tail = &head;
static struct stream the_stream;
static int broken = 0; // an error that a context does not recover from
static void* context = &broken;
static __thread void* current = NULL;

// A graph is what was enqueued while it was captured.
struct function;
struct node { work run; void* data; size_t bytes; struct function* function; };
struct graph { struct node nodes[64]; int count, alive; };
static struct graph* capturing = NULL;
static int spoiled = 0; // something was called that a capture does not allow
static void add(struct graph* graph, work run, const void* data, size_t bytes, struct function* function) {
    if (graph->count == 64) abort();
    struct node node = {run, malloc(bytes + 1), bytes, function};
    memcpy(node.data, data, bytes);
    graph->nodes[graph->count++] = node;
}

static void enqueue(struct stream* stream, work run, const void* data, size_t bytes) {
    (void)stream;
    if (capturing) {
        add(capturing, run, data, bytes, NULL);
        return;
    }
    struct item* item = malloc(sizeof *item);
    item->run = run;
    item->data = malloc(bytes + 1);
    memcpy(item->data, data, bytes);
    item->next = NULL;
    *tail = item;
    tail = &item->next;
}

// Does everything, or everything up to a mark.
static int drain(const int* until) {
    while (head && !broken && !(until && *until)) {
        struct item* item = head;
        head = item->next;
        if (!head) tail = &head;
        if (fake_fail) broken = fake_fail, fake_fail = 0;
        else item->run(item->data);
        free(item->data);
        free(item);
    }
    return broken;
}

// Every call that works on a context.
#define ENTER \
    if (current != context) return 201; \
    if (broken) return broken

// Every such call that waits, allocates or loads.
#define NOT_IN_CAPTURE \
    if (capturing) return spoiled = 1, 900

int cuDriverGetVersion(int* version) { return *version = fake_version, 0; }
int cuInit(unsigned flags) { return flags ? 1 : fake_init; }
int cuGetErrorName(unsigned code, const char** text) {
    *text = code == STICKY ? "CUDA_ERROR_LAUNCH_FAILED" : code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : code == 100 ? "CUDA_ERROR_NO_DEVICE" : NULL;
    return *text ? 0 : 1;
}
int cuGetErrorString(unsigned code, const char** text) {
    *text = code == STICKY ? "unspecified launch failure" : NULL;
    return *text ? 0 : 1;
}
int cuDeviceGetCount(int* count) { return *count = fake_devices, 0; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal >= 0 && ordinal < fake_devices ? 0 : 101; }
int cuDeviceGetName(char* name, int length, int device) { return snprintf(name, length, "Fake GPU %d", device), 0; }
int cuDeviceGetAttribute(int* value, unsigned attribute, int device) {
    (void)device;
    switch (attribute) {
        case 16: *value = 46; return 0;          // multiprocessors
        case 75: *value = fake_major; return 0;
        case 76: *value = fake_minor; return 0;
        case 97: *value = 99 << 10; return 0;    // shared memory by opting in
        case 115: *value = fake_pools; return 0;
        default: return 1;
    }
}
int cuDeviceGetDefaultMemPool(void** pool, int device) { (void)device; return *pool = &fake_total, 0; }
int fake_retain = 0; // the status of a context
int cuDevicePrimaryCtxRetain(void** ctx, int device) { (void)device; return fake_retain ? fake_retain : (fake_alive++, *ctx = context, 0); }
int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return fake_alive--, 0; }
int cuCtxSetCurrent(void* ctx) { return current = ctx, 0; }

int cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
    ENTER;
    *total = fake_total;
    *free_bytes = fake_total - fake_used;
    return 0;
}
static int allocate(uint64_t* address, size_t bytes) {
    NOT_IN_CAPTURE;
    if (bytes == 0) return 1;
    if (bytes > fake_total - fake_used) return FAKE_ERROR_OUT_OF_MEMORY;
    // Its size in front of it; garbage in it.
    size_t whole = (bytes + 511) / 256 * 256;
    char* block = aligned_alloc(256, whole);
    memset(block, 0xab, whole);
    *(size_t*)block = bytes;
    fake_used += bytes;
    *address = (uint64_t)(uintptr_t)(block + 256);
    return 0;
}
static void release(void* data) {
    char* block = *(char**)data - 256;
    fake_used -= *(size_t*)block;
    free(block);
}
int cuMemAlloc_v2(uint64_t* address, size_t bytes) { ENTER; return fake_pools ? 801 : allocate(address, bytes); }
int cuMemAllocAsync(uint64_t* address, size_t bytes, struct stream* stream) { (void)stream; ENTER; return fake_pools ? allocate(address, bytes) : 801; }
int cuMemFreeAsync(uint64_t address, struct stream* stream) { ENTER; NOT_IN_CAPTURE; return enqueue(stream, release, &address, sizeof address), 0; }
int cuMemFree_v2(uint64_t address) { ENTER; drain(NULL); return release(&address), broken; }
int cuMemPoolSetAttribute(void* pool, unsigned attribute, void* value) { (void)pool; (void)value; return attribute == 4 ? 0 : 1; }
int cuMemPoolGetAttribute(void* pool, unsigned attribute, void* value) {
    (void)pool;
    // Reserved: a mebibyte more than what is used.
    *(uint64_t*)value = attribute == 5 ? fake_used + (1 << 20) : fake_used;
    return attribute == 5 || attribute == 7 ? 0 : 1;
}
int cuMemPoolTrimTo(void* pool, size_t keep) { (void)pool; (void)keep; return drain(NULL); }
int cuMemAllocHost_v2(void** memory, size_t bytes) { ENTER; NOT_IN_CAPTURE; fake_pinned++; return *memory = malloc(bytes), 0; }
int cuMemFreeHost(void* memory) { return fake_pinned--, free(memory), 0; }
// Locked memory that the GPU sees: a limit of its own, garbage in it.
size_t fake_lockable = 1 << 28;
unsigned fake_host_flags = 0;
int cuMemHostAlloc(void** memory, size_t bytes, unsigned flags) {
    ENTER;
    if (bytes > fake_lockable) return FAKE_ERROR_OUT_OF_MEMORY;
    fake_pinned++;
    fake_host_flags = flags;
    *memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    return memset(*memory, 0xab, bytes), 0;
}
int cuMemHostGetDevicePointer_v2(uint64_t* address, void* memory, unsigned flags) { ENTER; return *address = (uint64_t)(uintptr_t)memory, flags ? 1 : 0; }

double fake_copy_milliseconds = 0; // of each copy
struct copy { void* to; const void* from; size_t bytes; };
static void copy(void* data) {
    struct copy* c = data;
    memmove(c->to, c->from, c->bytes);
    the_stream.clock += fake_copy_milliseconds;
}
static int later(void* to, const void* from, size_t bytes, struct stream* stream) {
    struct copy c = {to, from, bytes};
    return enqueue(stream, copy, &c, sizeof c), 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, struct stream* stream) { ENTER; return later((void*)(uintptr_t)to, from, bytes, stream); }
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, struct stream* stream) { ENTER; return later(to, (void*)(uintptr_t)from, bytes, stream); }
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, struct stream* stream) { ENTER; return later((void*)(uintptr_t)to, (void*)(uintptr_t)from, bytes, stream); }
struct fill { void* to; int value; size_t bytes; };
static void fill(void* data) { struct fill* f = data; memset(f->to, f->value, f->bytes); }
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, struct stream* stream) {
    ENTER;
    struct fill f = {(void*)(uintptr_t)to, value, bytes};
    return enqueue(stream, fill, &f, sizeof f), 0;
}

int cuStreamCreate(struct stream** stream, unsigned flags) {
    ENTER;
    (void)flags;
    the_stream.enqueue = enqueue;
    fake_alive++;
    return *stream = &the_stream, 0;
}
int cuStreamSynchronize(struct stream* stream) { (void)stream; ENTER; NOT_IN_CAPTURE; return drain(NULL); }
int cuStreamDestroy_v2(struct stream* stream) { (void)stream; return fake_alive--, 0; }

struct event { int passed; double at; int marks; };
static void pass(void* data) {
    struct event* event = *(struct event**)data;
    // Recorded again meanwhile: the earlier mark no longer counts.
    if (--event->marks == 0) event->passed = 1, event->at = the_stream.clock;
}
int cuEventCreate(struct event** event, unsigned flags) { ENTER; (void)flags; fake_alive++; return *event = calloc(1, sizeof **event), 0; }
int cuEventRecord(struct event* event, struct stream* stream) {
    ENTER;
    NOT_IN_CAPTURE;
    event->passed = 0;
    event->marks++;
    return enqueue(stream, pass, &event, sizeof event), 0;
}
int cuEventSynchronize(struct event* event) { ENTER; NOT_IN_CAPTURE; return drain(&event->passed); }
int cuEventElapsedTime(float* milliseconds, struct event* begin, struct event* end) {
    if (!begin->passed || !end->passed) return 600;
    return *milliseconds = (float)(end->at - begin->at), 0;
}
int cuEventDestroy_v2(struct event* event) { return fake_alive--, free(event), 0; }

// A module is its text; a function is in it if its name is.
struct function { const char* module; char name[64]; int shared; };
int cuModuleLoadData(char** module, const char* image) {
    ENTER;
    NOT_IN_CAPTURE;
    if (strncmp(image, "FAKE ", 5)) return 200;
    return fake_alive++, *module = strdup(image), 0;
}
int cuModuleUnload(char* module) { return fake_alive--, free(module), 0; }
int cuModuleGetFunction(struct function** function, const char* module, const char* name) {
    ENTER;
    char call[80];
    snprintf(call, sizeof call, "void %s(", name);
    if (!strstr(module, call)) return 500;
    // Functions live as long as the process: their module outlives the test.
    *function = calloc(1, sizeof **function);
    (*function)->module = module;
    (*function)->shared = 48 << 10;
    return snprintf((*function)->name, 64, "%s", name), 0;
}
int cuFuncSetAttribute(struct function* function, unsigned attribute, int value) {
    ENTER;
    if (attribute != 8 || value > 99 << 10) return 1;
    return function->shared = fake_opted = value, 0;
}

// The two kernels that the driver itself starts.
struct bias { char* y; const float* bias; unsigned width, rows; uint64_t stride; int bf16, round, add, shorten; };
static void bias(void* data) {
    struct bias* b = data;
    for (unsigned row = 0; row < b->rows; row++) {
        for (unsigned j = 0; j < b->width; j++) {
            uint64_t at = row * b->stride + j;
            if (b->round) ((uint16_t*)b->y)[at] = rounded(b->bias[j]);
            else {
                float x = b->shorten ? widened(rounded(b->bias[j])) : b->bias[j];
                if (b->bf16) ((uint16_t*)b->y)[at] = rounded((b->add ? widened(((uint16_t*)b->y)[at]) : 0) + x);
                else ((float*)b->y)[at] = (b->add ? ((float*)b->y)[at] : 0) + x;
            }
        }
    }
}
static int as_bias(struct function* f, unsigned gx, unsigned bx, void** arguments, struct bias* b) {
    int round = !strcmp(f->name, "round_bias");
    if (!round && strcmp(f->name, "put_bias")) return 0;
    *b = (struct bias){*(char**)arguments[0], *(const float**)arguments[1], *(unsigned*)arguments[2], round ? 1 : gx,
                       round ? 0 : *(uint64_t*)arguments[3], strstr(f->module, "#define STORAGE_BF16 1") != NULL, round,
                       round ? 0 : *(unsigned*)arguments[4], round ? 0 : *(unsigned*)arguments[5]};
    return round && gx * bx < b->width ? -1 : 1;
}
int cuLaunchKernel(struct function* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, struct stream* stream, void** arguments, void** extra) {
    ENTER;
    if (!gx || !gy || !gz || !bx || !by || !bz || bx * by * bz > 1024 || extra || (int)shared > f->shared) return 1;
    fake_launches++;
    unsigned launch[7] = {gx, gy, gz, bx, by, bz, shared};
    memcpy(fake_last_launch, launch, sizeof launch);
    struct bias b;
    int is_bias = as_bias(f, gx, bx, arguments, &b);
    if (is_bias < 0) return 1;
    if (is_bias && capturing) add(capturing, bias, &b, sizeof b, f);
    else if (is_bias) enqueue(stream, bias, &b, sizeof b);
    else for (int i = 0; i < 4; i++) fake_last_values[i] = *(unsigned*)arguments[i];
    return 0;
}

int cuStreamBeginCapture_v2(struct stream* stream, unsigned mode) {
    ENTER;
    (void)stream;
    if (capturing || mode != 1) return 1;
    capturing = calloc(1, sizeof *capturing);
    capturing->alive = 1;
    return spoiled = 0;
}
int cuStreamEndCapture(struct stream* stream, struct graph** graph) {
    (void)stream;
    if (!capturing) return 1;
    *graph = spoiled || fake_capture ? NULL : capturing;
    if (*graph) fake_alive++;
    capturing = NULL;
    return *graph ? 0 : fake_capture ? fake_capture : 901;
}
int cuStreamGetCaptureInfo_v2(struct stream* stream, unsigned* status, uint64_t* id, struct graph** graph,
                              struct node*** nodes, size_t* count) {
    static struct node* latest;
    (void)stream; (void)id;
    *status = capturing != NULL;
    if (!capturing) return 0;
    latest = &capturing->nodes[capturing->count - 1];
    return *graph = capturing, *nodes = &latest, *count = 1, 0;
}
struct executable { struct graph* of; struct graph own; };
int cuGraphInstantiateWithFlags(struct executable** executable, struct graph* graph, unsigned long long flags) {
    ENTER;
    if (flags || fake_instantiate) return fake_instantiate ? fake_instantiate : 1;
    *executable = calloc(1, sizeof **executable);
    (*executable)->of = graph;
    for (int i = 0; i < graph->count; i++) {
        struct node* node = &graph->nodes[i];
        add(&(*executable)->own, node->run, node->data, node->bytes, node->function);
    }
    return fake_graphs++, fake_alive++, 0;
}
// What has been started keeps the arguments that it was started with.
int cuGraphLaunch(struct executable* executable, struct stream* stream) {
    ENTER;
    fake_graph_starts++;
    for (int i = 0; i < executable->own.count; i++) {
        struct node* node = &executable->own.nodes[i];
        enqueue(stream, node->run, node->data, node->bytes);
    }
    return 0;
}
struct parameters { struct function* function; unsigned gx, gy, gz, bx, by, bz, shared; void **arguments, **extra; void *kernel, *context; };
int cuGraphExecKernelNodeSetParams_v2(struct executable* executable, struct node* node, const struct parameters* p) {
    ENTER;
    long i = node - executable->of->nodes;
    if (fake_change || !executable->of->alive || i < 0 || i >= executable->own.count) return fake_change ? fake_change : 1;
    struct node* own = &executable->own.nodes[i];
    if (own->function != p->function || p->extra || p->kernel || p->context) return 1;
    fake_graph_changes++;
    return as_bias(p->function, p->gx, p->bx, p->arguments, own->data) == 1 ? 0 : 1;
}
int cuGraphExecDestroy(struct executable* executable) { return fake_alive--, free(executable), 0; }
int cuGraphDestroy(struct graph* graph) { return graph->alive = 0, fake_alive--, 0; }
