/* storm LIST SERVER:EXPORT...: nodes that boot at once. One thread a node mounts SERVER:EXPORT over NFSv3, and when all have done so,
 * opens and reads each path of LIST, in the list's order. As a kernel's client does, it keeps what a name was found to be (a handle, a
 * symlink's target) and asks for nothing twice. Prints calls, bytes and how long all took, and of a call's time median and p99, as JSON.
 *
 * storm --calls PATH SERVER:EXPORT...: how many calls the first opening of PATH takes, for each export.
 *
 * Owns: walking paths, and counting and timing calls. May not: time mounting; count a path that fails (it ends the run). */
#define _GNU_SOURCE
#include <pthread.h>
#include <search.h>
#include <time.h>

#include "../../integration/nfs/raw3.h"

/* READ_MOST: of a large file a boot maps some pages, and does not read the rest. */
enum { LINKS = 40, READ_MOST = 256 << 10, READ_ONCE = PIECE };

/* What a path of the server is, as far as it was asked. */
struct known {
    char *path;
    struct handle handle;
    unsigned type;
    char *target;
};

struct node {
    const char *export;
    char server[256];
    struct rpc_context *rpc;
    struct call call;
    /* By path; that of the root is "". */
    void *names;
    uint64_t calls, bytes, *took;
    size_t room;
    int64_t began, ended;
};

static char **paths;
static size_t path_count;
static pthread_barrier_t all;

static int64_t now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static void *need(void *memory) {
    if (!memory) die("memory", "none left");
    return memory;
}

/* Counts and times a call that has been made since `began`, and ends the run where it was refused. */
static void made(struct node *node, int64_t began, const char *path) {
    if (node->call.status) {
        char why[64];
        snprintf(why, sizeof why, "status %d from %.40s", node->call.status, node->export);
        die(path, why);
    }
    if (node->calls == node->room) {
        node->room = node->room ? 2 * node->room : 4096;
        node->took = need(realloc(node->took, node->room * sizeof *node->took));
    }
    node->took[node->calls++] = now() - began;
}

static int by_path(const void *a, const void *b) { return strcmp(((const struct known *)a)->path, ((const struct known *)b)->path); }

static struct known *find(struct node *node, char *path) {
    struct known sought = {.path = path};
    struct known **found = tfind(&sought, &node->names, by_path);
    return found ? *found : NULL;
}

static struct known *keep(struct node *node, const char *path) {
    struct known *known = need(calloc(1, sizeof *known));
    known->path = need(strdup(path));
    known->handle = node->call.handle;
    known->type = node->call.type;
    need(tsearch(known, &node->names, by_path));
    return known;
}

/* What `in` has by the name that `path` ends in. */
static struct known *look(struct node *node, const struct known *in, char *path, const char *name) {
    struct known *known = find(node, path);
    if (known) return known;
    int64_t began = now();
    name3(node->rpc, &node->call, &in->handle, name);
    made(node, began, path);
    return keep(node, path);
}

static void got_target(struct rpc_context *rpc, int status, void *data, void *private) {
    (void)rpc;
    struct call *call = private;
    if (!answered(call, status)) return;
    READLINK3res *res = data;
    call->status = res->status;
    if (res->status == NFS3_OK) keep_data(call, strlen(res->READLINK3res_u.resok.data), res->READLINK3res_u.resok.data);
}

static const char *target(struct node *node, struct known *link) {
    if (link->target) return link->target;
    READLINK3args args = {.symlink = handle3(&link->handle)};
    int64_t began = now();
    ask(&node->call);
    queued(node->rpc, &node->call, rpc_nfs3_readlink_async(node->rpc, got_target, &args, &node->call));
    made(node, began, link->path);
    return link->target = need(strndup(node->call.data, node->call.len));
}

/* Walks to what a path leads to, through symlinks. */
static struct known *walk(struct node *node, const char *path) {
    char rest[2 * PATH], at[PATH] = "", next[2 * PATH];
    struct known *known = find(node, at);
    snprintf(rest, sizeof rest, "%s", path);
    for (int links = 0; rest[strspn(rest, "/")];) {
        char *name = rest + strspn(rest, "/"), *after = name + strcspn(name, "/");
        if (*after) *after++ = 0;
        size_t len = strlen(at);
        if (!strcmp(name, ".") || !strcmp(name, "..")) {
            if (name[1] && len) *strrchr(at, '/') = 0;
            known = find(node, at);
            memmove(rest, after, strlen(after) + 1);
            continue;
        }
        if (len + strlen(name) + 2 > sizeof at) die(path, "too long");
        sprintf(at + len, "/%s", name);
        struct known *found = look(node, known, at, name);
        if (found->type != NF3LNK) {
            known = found;
            memmove(rest, after, strlen(after) + 1);
            continue;
        }
        if (++links > LINKS) die(path, "too many symlinks");
        const char *to = target(node, found);
        snprintf(next, sizeof next, "%s/%s", to, after);
        strcpy(rest, next);
        at[*to == '/' ? 0 : len] = 0;
        known = find(node, at);
    }
    return known;
}

static void got_access(struct rpc_context *rpc, int status, void *data, void *private) {
    (void)rpc;
    if (answered(private, status)) ((struct call *)private)->status = ((ACCESS3res *)data)->status;
}

/* Opens a path, and reads what is a file. */
static void visit(struct node *node, const char *path) {
    const struct known *known = walk(node, path);
    ACCESS3args args = {.object = handle3(&known->handle), .access = ACCESS3_READ | ACCESS3_LOOKUP | ACCESS3_EXECUTE};
    int64_t began = now();
    ask(&node->call);
    queued(node->rpc, &node->call, rpc_nfs3_access_async(node->rpc, got_access, &args, &node->call));
    made(node, began, path);
    if (known->type != NF3REG) return;
    for (uint64_t at = 0; at < READ_MOST;) {
        began = now();
        data3(node->rpc, &node->call, &known->handle, at, READ_ONCE);
        made(node, began, path);
        at += node->call.len;
        node->bytes += node->call.len;
        if (node->call.eof || !node->call.len) break;
    }
}

static void mount_it(struct node *node) {
    const char *path = strchr(node->export, ':');
    if (!path || path - node->export >= (long)sizeof node->server) die(node->export, "no SERVER:EXPORT");
    snprintf(node->server, sizeof node->server, "%.*s", (int)(path - node->export), node->export);
    node->rpc = program(node->server, NFS_PROGRAM, NFS_V3, &node->call);
    root3(node->server, path + 1, &node->call);
    if (node->call.status) die(node->export, "not mounted");
    node->call.type = NF3DIR;
    keep(node, "");
}

static void *boot(void *arg) {
    struct node *node = arg;
    mount_it(node);
    pthread_barrier_wait(&all);
    node->began = now();
    for (size_t i = 0; i < path_count; i++) visit(node, paths[i]);
    node->ended = now();
    return NULL;
}

static void read_list(const char *file) {
    char *line = NULL;
    size_t room = 0;
    ssize_t len;
    FILE *list = fopen(file, "r");
    if (!list) die(file, strerror(errno));
    while ((len = getline(&line, &room, list)) > 0) {
        line[strcspn(line, "\n")] = 0;
        paths = need(realloc(paths, (path_count + 1) * sizeof *paths));
        paths[path_count++] = need(strdup(line));
    }
    fclose(list);
    free(line);
    if (!path_count) die(file, "is empty");
}

static int by_time(const void *a, const void *b) {
    uint64_t one = *(const uint64_t *)a, other = *(const uint64_t *)b;
    return (one > other) - (one < other);
}

static void storm(char **exports, size_t count) {
    struct node *nodes = need(calloc(count, sizeof *nodes));
    pthread_t *threads = need(calloc(count, sizeof *threads));
    uint64_t calls = 0, bytes = 0, *took, *to;
    int64_t began = INT64_MAX, ended = 0;
    pthread_barrier_init(&all, NULL, count);
    for (size_t i = 0; i < count; i++) {
        nodes[i].export = exports[i];
        if (pthread_create(&threads[i], NULL, boot, &nodes[i])) die("a thread", "not started");
    }
    for (size_t i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        calls += nodes[i].calls;
        bytes += nodes[i].bytes;
        if (nodes[i].began < began) began = nodes[i].began;
        if (nodes[i].ended > ended) ended = nodes[i].ended;
    }
    to = took = need(malloc(calls * sizeof *took));
    for (size_t i = 0; i < count; i++) to = mempcpy(to, nodes[i].took, nodes[i].calls * sizeof *took);
    qsort(took, calls, sizeof *took, by_time);
    printf("{\"nodes\": %zu, \"paths\": %zu, \"calls\": %lu, \"bytes\": %lu, \"ns\": %ld, \"p50_ns\": %lu, \"p99_ns\": %lu}\n", count, path_count * count, calls,
        bytes, ended - began, took[calls / 2], took[calls - 1 - calls / 100]);
}

static void count_calls(const char *path, char **exports, size_t count) {
    for (size_t i = 0; i < count; i++) {
        struct node *node = need(calloc(1, sizeof *node));
        node->export = exports[i];
        mount_it(node);
        visit(node, path);
        printf("%lu\n", node->calls);
    }
}

int main(int argc, char **argv) {
    if (argc > 3 && !strcmp(argv[1], "--calls")) {
        count_calls(argv[2], argv + 3, argc - 3);
    } else if (argc > 2) {
        read_list(argv[1]);
        storm(argv + 2, argc - 2);
    } else {
        die("usage", "storm LIST SERVER:EXPORT... | storm --calls PATH SERVER:EXPORT...");
    }
    return 0;
}
