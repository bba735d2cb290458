// A cuDNN that knows attention only: descriptors are checked as the manual defines them, and a plan computes what its
// descriptors say, by their dimensions, strides and names, one element at a time.
#include "fake.h"
#include <math.h>

size_t fake_version = 92801;
size_t fake_cudart = 12080;
int fake_alive = 0;               // handles and descriptors
int fake_engines = 2;             // proposals
int fake_noted = 0;               // whether engines say that they do not repeat
long fake_stages = 4;             // the number of stages with which gradients repeat
int fake_restless = 0;            // whether they do not for all that
int fake_wrong = 0;               // 1: keys after a query are seen; 2: one row is wrong; 3: log-sum-exps are not written
int fake_refuse = 0;              // status of an execution
long fake_workspace = 4096;
double fake_milliseconds = 1;
int fake_plans = 0, fake_executions = 0;

enum { BAD = 2000, UNSUPPORTED = 3000, F32 = 0, BF16 = 9 };
enum { T_HANDLE, T_DTYPE, T_BOOL, T_I64, T_PTR = 6, T_HEUR = 8, T_KNOB = 9, T_NOTE = 11, T_POINTWISE = 14, T_DESCRIPTOR = 15 };
enum { ENGINE = 2, CONFIG, HEURISTICS, PLAN, CHOICE = 7, GRAPH = 15, VARIANT, TENSOR, FORWARD = 41, BACKWARD = 43, MASK, SOFTMAX };

struct attribute { int name, type; int64_t count; void* data; };
struct descriptor {
    int kind, final;
    struct attribute attributes[24];
    int count;
    // Of engines and configurations that the heuristics have filled.
    long index;
    struct descriptor* graph;
};
struct handle { struct stream* stream; };
static char said[256];
static int fail(int status, const char* text) { return snprintf(said, sizeof said, "%s", text), status; }
#define NEED(condition) \
    if (!(condition)) return fail(BAD, #condition)

size_t cudnnGetVersion(void) { return fake_version; }
size_t cudnnGetCudartVersion(void) { return fake_cudart; }
void cudnnGetLastErrorString(char* text, size_t bytes) { snprintf(text, bytes, "%s", said); }
int cudnnCreate(struct handle** handle) { return fake_alive++, *handle = calloc(1, sizeof **handle), 0; }
int cudnnDestroy(struct handle* handle) { return fake_alive--, free(handle), 0; }
int cudnnSetStream(struct handle* handle, struct stream* stream) { return handle->stream = stream, 0; }
int cudnnBackendCreateDescriptor(int kind, struct descriptor** d) {
    fake_alive++;
    *d = calloc(1, sizeof **d);
    return (*d)->kind = kind, 0;
}
int cudnnBackendDestroyDescriptor(struct descriptor* d) {
    for (int i = 0; i < d->count; i++) free(d->attributes[i].data);
    // Whoever still refers to it finds garbage.
    memset(d, 0xdd, sizeof *d);
    return fake_alive--, free(d), 0;
}

static size_t size_of(int type) {
    switch (type) {
        case T_BOOL: return 1;
        case T_DTYPE: case T_HEUR: case T_KNOB: case T_NOTE: case T_POINTWISE: return 4;
        case T_HANDLE: case T_I64: case T_PTR: case T_DESCRIPTOR: return 8;
        default: return 0;
    }
}
// The type of an attribute and of which descriptor it is one.
static int type_of(int kind, int name) {
    switch (kind) {
        case TENSOR:
            switch (name) {
                case 901: return T_DTYPE;
                case 900: case 902: case 903: case 906: return T_I64;
                case 907: case 908: return T_BOOL;
            }
            return -1;
        case GRAPH: return name == 800 ? T_HANDLE : name == 801 ? T_DESCRIPTOR : -1;
        case HEURISTICS: return name == 200 ? T_HEUR : name == 201 ? T_DESCRIPTOR : -1;
        case CONFIG: return name == 300 || name == 302 ? T_DESCRIPTOR : -1;
        case CHOICE: return name == 600 ? T_KNOB : name == 601 ? T_I64 : -1;
        case PLAN: return name == 400 ? T_HANDLE : name == 401 ? T_DESCRIPTOR : -1;
        case VARIANT: return name == 1000 ? T_I64 : name == 1001 || name == 1003 ? T_PTR : -1;
        case FORWARD: return name == 2812 || name == 2813 ? T_I64 : name >= 2800 && name <= 2814 ? T_DESCRIPTOR : -1;
        case BACKWARD: return name == 2868 || name == 2869 ? T_I64 : name >= 2851 && name <= 2867 ? T_DESCRIPTOR : -1;
        case MASK: return name == 3007 ? T_POINTWISE : name >= 3000 && name < 3007 ? T_DESCRIPTOR : -1;
        case SOFTMAX: return name >= 3100 && name <= 3105 ? T_DESCRIPTOR : -1;
        default: return -1;
    }
}
int cudnnBackendSetAttribute(struct descriptor* d, int name, int type, int64_t count, const void* values) {
    NEED(!d->final);
    NEED(type_of(d->kind, name) == type);
    NEED(count > 0 && d->count < 24);
    struct attribute* a = &d->attributes[d->count++];
    *a = (struct attribute){name, type, count, malloc(count * size_of(type))};
    memcpy(a->data, values, count * size_of(type));
    for (int64_t i = 0; type == T_DESCRIPTOR && i < count; i++) NEED(((struct descriptor**)values)[i]->final);
    return 0;
}

static const struct attribute* find(const struct descriptor* d, int name) {
    for (int i = 0; i < d->count; i++) if (d->attributes[i].name == name) return &d->attributes[i];
    return NULL;
}
static struct descriptor* one(const struct descriptor* d, int name, int kind) {
    const struct attribute* a = find(d, name);
    struct descriptor* to = a && a->count == 1 ? *(struct descriptor**)a->data : NULL;
    return to && to->final && to->kind == kind ? to : NULL;
}
static int64_t number(const struct descriptor* d, int name, int i) {
    const struct attribute* a = find(d, name);
    return a && a->count > i ? ((int64_t*)a->data)[i] : -1;
}
static int word(const struct descriptor* d, int name) {
    const struct attribute* a = find(d, name);
    return a && a->count == 1 ? *(int*)a->data : -1;
}
static int flag(const struct descriptor* d, int name) {
    const struct attribute* a = find(d, name);
    return a && *(char*)a->data;
}
static int64_t dim(const struct descriptor* t, int i) { return number(t, 902, i); }
static int is(const struct descriptor* t, int type, int is_virtual, int on_host, int64_t b, int64_t h, int64_t s, int64_t d) {
    return t && word(t, 901) == type && flag(t, 907) == is_virtual && flag(t, 908) == on_host && dim(t, 0) == b && dim(t, 1) == h &&
           dim(t, 2) == s && dim(t, 3) == d;
}

static struct descriptor* tensor(const struct descriptor* operation, int name) { return one(operation, name, TENSOR); }
// A causal mask over the scores of an operation.
static int masks(const struct descriptor* operation, int subgraph, int64_t b, int64_t h, int64_t s) {
    const struct descriptor* graph = one(operation, subgraph, GRAPH);
    NEED(graph && !find(graph, 800));
    const struct descriptor* mask = one(graph, 801, MASK);
    NEED(mask);
    NEED(is(tensor(mask, 3000), F32, 1, 0, b, h, s, s) && is(tensor(mask, 3006), F32, 1, 0, b, h, s, s));
    NEED(is(tensor(mask, 3005), F32, 0, 1, 1, 1, 1, 1));
    NEED(number(tensor(mask, 3000), 906, 0) == number(operation, subgraph + 1, 0));
    NEED(number(tensor(mask, 3006), 906, 0) == number(operation, subgraph + 2, 0));
    return 0;
}
int cudnnBackendFinalize(struct descriptor* d) {
    NEED(!d->final);
    switch (d->kind) {
        case TENSOR:
            for (int i = 0; i < 4; i++) NEED(dim(d, i) > 0 && number(d, 903, i) > 0);
            NEED(find(d, 906) && number(d, 900, 0) == 16 && !(flag(d, 907) && flag(d, 908)));
            break;
        case MASK: NEED(tensor(d, 3000) && tensor(d, 3005) && tensor(d, 3006) && word(d, 3007) == 303); break;
        case SOFTMAX: {
            const struct descriptor *x = tensor(d, 3100), *y = tensor(d, 3101), *stats = tensor(d, 3102);
            NEED(x && y && stats && flag(x, 907) && flag(y, 907) && number(x, 906, 0) != number(y, 906, 0));
            NEED(is(stats, F32, 0, 0, dim(x, 0), dim(x, 1), dim(x, 2), 1));
            break;
        }
        case FORWARD: case BACKWARD: {
            int back = d->kind == BACKWARD, base = back ? 2851 : 2800;
            const struct descriptor *q = tensor(d, base), *k = tensor(d, base + 1);
            NEED(q && k);
            int64_t b = dim(q, 0), h = dim(q, 1), s = dim(q, 2), w = dim(q, 3), kv = dim(k, 1);
            NEED(h % kv == 0);
            NEED(is(q, BF16, 0, 0, b, h, s, w) && is(k, BF16, 0, 0, b, kv, s, w));
            NEED(is(tensor(d, base + 2), BF16, 0, 0, b, kv, s, w) && is(tensor(d, base + 3), BF16, 0, 0, b, h, s, w));
            NEED(is(tensor(d, base + 5), F32, 0, 1, 1, 1, 1, 1));
            if (back) {
                NEED(is(tensor(d, 2855), F32, 0, 0, b, h, s, 1) && is(tensor(d, 2862), BF16, 0, 0, b, h, s, w));
                NEED(is(tensor(d, 2859), BF16, 0, 0, b, h, s, w) && is(tensor(d, 2860), BF16, 0, 0, b, kv, s, w));
                NEED(is(tensor(d, 2861), BF16, 0, 0, b, kv, s, w));
            } else {
                NEED(one(d, 2814, SOFTMAX) && dim(tensor(one(d, 2814, SOFTMAX), 3100), 3) == s);
            }
            int status = masks(d, back ? 2867 : 2811, b, h, s);
            if (status) return status;
            break;
        }
        case GRAPH: NEED(find(d, 801) && find(d, 801)->count == 1); break;
        case HEURISTICS: NEED(word(d, 200) == 3 && one(d, 201, GRAPH) && find(one(d, 201, GRAPH), 800)); break;
        case CHOICE: NEED(find(d, 600) && find(d, 601)); break;
        case CONFIG: {
            NEED(one(d, 300, ENGINE));
            const struct attribute* choices = find(d, 302);
            d->graph = one(d, 300, ENGINE)->graph;
            d->index = 0;
            for (int64_t i = 0; choices && i < choices->count; i++) {
                const struct descriptor* choice = ((struct descriptor**)choices->data)[i];
                NEED(choice->kind == CHOICE);
                if (word(choice, 600) == 14) d->index = number(choice, 601, 0);
            }
            if (d->index != 0 && d->index != fake_stages) return fail(UNSUPPORTED, "so many stages");
            break;
        }
        case PLAN: NEED(find(d, 400) && one(d, 401, CONFIG)); fake_plans++; break;
        case VARIANT:
            NEED(find(d, 1000) && find(d, 1001) && find(d, 1003));
            NEED(find(d, 1000)->count == find(d, 1001)->count && number(d, 1003, 0) != 0);
            break;
        default: return fail(BAD, "no such descriptor");
    }
    d->final = 1;
    return 0;
}

int cudnnBackendGetAttribute(struct descriptor* d, int name, int type, int64_t room, int64_t* count, void* values) {
    NEED(d->final);
    struct descriptor** into = values;
    if (d->kind == HEURISTICS && name == 202 && type == T_DESCRIPTOR) {
        *count = fake_engines < room ? fake_engines : room;
        for (int i = 0; i < *count; i++) {
            NEED(into[i]->kind == CONFIG && !into[i]->final);
            into[i]->final = 1;
            into[i]->index = i;
            into[i]->graph = one(d, 201, GRAPH);
        }
        return 0;
    }
    if (d->kind == CONFIG && name == 300 && type == T_DESCRIPTOR) {
        NEED(room == 1 && into[0]->kind == ENGINE);
        into[0]->final = 1;
        into[0]->graph = d->graph;
        return *count = 1, 0;
    }
    if (d->kind == CONFIG && name == 302 && type == T_DESCRIPTOR) {
        // A tile, and a number of stages with which nothing repeats.
        NEED(room >= 2 && into[0]->kind == CHOICE && into[1]->kind == CHOICE);
        for (int i = 0; i < 2; i++) {
            int knob = i ? 14 : 40;
            int64_t value = 0;
            cudnnBackendSetAttribute(into[i], 600, T_KNOB, 1, &knob);
            cudnnBackendSetAttribute(into[i], 601, T_I64, 1, &value);
            into[i]->final = 1;
        }
        return *count = 2, 0;
    }
    if (d->kind == CHOICE && name == 600 && type == T_KNOB) return *(int*)values = word(d, 600), *count = 1, 0;
    if (d->kind == ENGINE && name == 1303 && type == T_NOTE) {
        int notes[2] = {0, 4};
        *count = fake_noted ? 2 : 1;
        NEED(room >= *count);
        return memcpy(values, notes, *count * 4), 0;
    }
    if (d->kind == PLAN && name == 402 && type == T_I64) return *(int64_t*)values = fake_workspace, *count = 1, 0;
    return fail(BAD, "no such attribute");
}

// A tensor with its address.
struct placed { char* at; int64_t strides[4]; int type; };
static struct placed place(const struct descriptor* t, const struct descriptor* variant) {
    const struct attribute* uids = find(variant, 1000);
    for (int64_t i = 0; i < uids->count; i++) {
        if (((int64_t*)uids->data)[i] != number(t, 906, 0)) continue;
        struct placed p = {((char**)find(variant, 1001)->data)[i], {0}, word(t, 901)};
        for (int j = 0; j < 4; j++) p.strides[j] = number(t, 903, j);
        // As the tensor says that it is aligned, where it is on the device.
        if (!flag(t, 908) && (uintptr_t)p.at % 16) abort();
        return p;
    }
    return (struct placed){NULL};
}
static int64_t offset(const struct placed* p, int64_t b, int64_t h, int64_t s, int64_t d) {
    return b * p->strides[0] + h * p->strides[1] + s * p->strides[2] + d * p->strides[3];
}
static double load(const struct placed* p, int64_t b, int64_t h, int64_t s, int64_t d) {
    int64_t at = offset(p, b, h, s, d);
    return p->type == BF16 ? widened(((uint16_t*)p->at)[at]) : ((float*)p->at)[at];
}
static void store(const struct placed* p, int64_t b, int64_t h, int64_t s, int64_t d, double value) {
    int64_t at = offset(p, b, h, s, d);
    if (p->type == BF16) ((uint16_t*)p->at)[at] = rounded((float)value);
    else ((float*)p->at)[at] = (float)value;
}

struct work_item {
    int64_t b, h, kv, s, d;
    int back, wrong;
    double scale, masked, factor, milliseconds;
    struct placed q, k, v, out, lse, d_out, dq, dk, dv;
    struct stream* stream;
};
static double dot(const struct placed* x, int64_t b, int64_t h, int64_t s, const struct placed* y, int64_t i, int64_t j, int64_t width) {
    double sum = 0;
    for (int64_t d = 0; d < width; d++) sum += load(x, b, h, s, d) * load(y, b, i, j, d);
    return sum;
}
static void attend(void* data) {
    struct work_item* w = data;
    double *p = malloc(w->s * sizeof(double)), *sums = calloc(3 * w->b * w->h * w->s * w->d, sizeof(double));
    double *dq = sums, *dk = dq + w->b * w->h * w->s * w->d, *dv = dk + w->b * w->h * w->s * w->d;
    for (int64_t b = 0; b < w->b; b++) for (int64_t h = 0; h < w->h; h++) for (int64_t i = 0; i < w->s; i++) {
        int64_t g = h / (w->h / w->kv), seen = w->wrong == 1 ? w->s : i + 1;
        double most = w->masked, sum = 0;
        for (int64_t j = 0; j < w->s; j++) {
            p[j] = j < seen ? dot(&w->q, b, h, i, &w->k, g, j, w->d) * w->scale : w->masked;
            most = p[j] > most ? p[j] : most;
        }
        for (int64_t j = 0; j < w->s; j++) sum += exp(p[j] - most);
        double lse = w->back ? load(&w->lse, b, h, i, 0) : most + log(sum);
        for (int64_t j = 0; j < w->s; j++) p[j] = exp(p[j] - lse);
        if (!w->back) {
            for (int64_t d = 0; d < w->d; d++) {
                double value = 0;
                for (int64_t j = 0; j < seen; j++) value += p[j] * load(&w->v, b, g, j, d);
                store(&w->out, b, h, i, d, w->wrong == 2 && b == w->b - 1 && i == w->s / 2 ? value + 1 : value);
            }
            if (w->wrong != 3) store(&w->lse, b, h, i, 0, lse);
            continue;
        }
        double delta = dot(&w->d_out, b, h, i, &w->out, h, i, w->d);
        for (int64_t j = 0; j < seen; j++) {
            double ds = p[j] * (dot(&w->d_out, b, h, i, &w->v, g, j, w->d) - delta) * w->scale;
            for (int64_t d = 0; d < w->d; d++) {
                dq[((b * w->h + h) * w->s + i) * w->d + d] += ds * load(&w->k, b, g, j, d);
                dk[((b * w->kv + g) * w->s + j) * w->d + d] += ds * load(&w->q, b, h, i, d);
                dv[((b * w->kv + g) * w->s + j) * w->d + d] += p[j] * load(&w->d_out, b, h, i, d);
            }
        }
    }
    for (int64_t b = 0; w->back && b < w->b; b++) for (int64_t h = 0; h < w->h; h++) for (int64_t i = 0; i < w->s; i++) {
        for (int64_t d = 0; d < w->d; d++) {
            store(&w->dq, b, h, i, d, w->factor * dq[((b * w->h + h) * w->s + i) * w->d + d]);
            if (h >= w->kv) continue;
            store(&w->dk, b, h, i, d, dk[((b * w->kv + h) * w->s + i) * w->d + d]);
            store(&w->dv, b, h, i, d, dv[((b * w->kv + h) * w->s + i) * w->d + d]);
        }
    }
    free(p);
    free(sums);
    w->stream->clock += w->milliseconds;
}
int cudnnBackendExecute(struct handle* handle, struct descriptor* plan, struct descriptor* variant) {
    NEED(handle && handle->stream && plan->kind == PLAN && plan->final && variant->kind == VARIANT && variant->final);
    if (fake_refuse) return fail(fake_refuse, "as it was told to");
    const struct descriptor* config = one(plan, 401, CONFIG);
    NEED(config);
    const struct descriptor* graph = config->graph;
    NEED(graph && graph->final && graph->kind == GRAPH);
    const struct descriptor* operation = one(graph, 801, FORWARD);
    int back = !operation, base = back ? 2851 : 2800;
    if (back) operation = one(graph, 801, BACKWARD);
    NEED(operation);
    const struct descriptor* q = tensor(operation, base);
    struct work_item w = {.b = dim(q, 0), .h = dim(q, 1), .s = dim(q, 2), .d = dim(q, 3), .back = back, .wrong = fake_wrong,
                          .factor = 1, .milliseconds = fake_milliseconds, .stream = handle->stream};
    w.kv = dim(tensor(operation, base + 1), 1);
    w.q = place(q, variant);
    w.k = place(tensor(operation, base + 1), variant);
    w.v = place(tensor(operation, base + 2), variant);
    w.out = place(tensor(operation, base + 3), variant);
    w.lse = place(back ? tensor(operation, 2855) : tensor(one(operation, 2814, SOFTMAX), 3102), variant);
    NEED(w.q.at && w.k.at && w.v.at && w.out.at && w.lse.at);
    if (back) {
        w.d_out = place(tensor(operation, 2862), variant);
        w.dq = place(tensor(operation, 2859), variant);
        w.dk = place(tensor(operation, 2860), variant);
        w.dv = place(tensor(operation, 2861), variant);
        NEED(w.d_out.at && w.dq.at && w.dk.at && w.dv.at);
        // Without an order of the sums, or although there is one: another result each time, by a rounding error.
        if (config->index != fake_stages || fake_restless) w.factor = 1 + 0.004 * (fake_executions % 3);
    }
    struct placed scale = place(tensor(operation, base + 5), variant);
    struct placed masked = place(tensor(one(one(operation, back ? 2867 : 2811, GRAPH), 801, MASK), 3005), variant);
    NEED(scale.at && masked.at);
    // Values on the host are read now.
    w.scale = *(float*)scale.at, w.masked = *(float*)masked.at;
    fake_executions++;
    handle->stream->enqueue(handle->stream, attend, &w, sizeof w);
    return 0;
}
