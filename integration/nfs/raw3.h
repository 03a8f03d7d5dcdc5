/* NFSv3 by file handle, call by call, over libnfs' connections: what its own functions hide.
 *
 * Owns: one call at a time on a connection, and what came of it. May not: retry, or keep anything
 * between calls. Each thread has connections of its own. */
#ifndef RAW3_H
#define RAW3_H

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nfsc/libnfs.h>
#include <nfsc/libnfs-raw.h>
#include <nfsc/libnfs-raw-mount.h>
#include <nfsc/libnfs-raw-nfs.h>

enum { HANDLE = 128, PIECE = 1 << 16, PATH = 4096 };

/* A file handle; at most 64 bytes in version 3, 128 in version 4. */
struct handle { unsigned len; char val[HANDLE]; };

/* A call that is waited for, and what came of it. */
struct call {
    int done;
    /* The protocol's status; below 0 where there was no answer at all. */
    int status;
    uint64_t size, fileid;
    /* What a name stands for, where the server says it. */
    unsigned type;
    struct handle handle;
    /* Contents, or where a symlink leads to. */
    unsigned len, eof;
    char data[PIECE];
};

static inline void die(const char *what, const char *why) {
    fprintf(stderr, "client: %s: %s\n", what, why);
    exit(2);
}

static inline void queued(struct rpc_context *rpc, struct call *call, int error) {
    if (error != 0) die("call", rpc_get_error(rpc));
    while (!call->done) {
        struct pollfd fd = {.fd = rpc_get_fd(rpc), .events = (short)rpc_which_events(rpc)};
        if (poll(&fd, 1, 1000) < 0 && errno != EINTR) die("poll", strerror(errno));
        if (rpc_service(rpc, fd.revents) < 0) die("connection", rpc_get_error(rpc));
    }
}

/* Before a call: nothing is known of it. */
static inline void ask(struct call *call) {
    call->done = 0;
    call->size = call->fileid = 0;
    call->type = call->len = call->eof = 0;
}

/* Is there an answer? */
static inline int answered(struct call *call, int status) {
    call->done = 1;
    call->status = -EIO;
    return status == RPC_STATUS_SUCCESS;
}

static inline void keep_handle(struct call *call, unsigned len, const char *val) {
    if (len > HANDLE) die("a handle", "too long");
    call->handle.len = len;
    memcpy(call->handle.val, val, len);
}

static inline void keep_data(struct call *call, unsigned len, const char *val) {
    if (len > PIECE) die("an answer", "too long");
    call->len = len;
    memcpy(call->data, val, len);
}

static inline void raw_connected(struct rpc_context *rpc, int status, void *data, void *private) {
    (void)data;
    if (!answered(private, status)) die("connection", rpc_get_error(rpc));
}

/* A program of a server, found by its portmapper. */
static inline struct rpc_context *program(const char *server, int number, int version, struct call *call) {
    struct rpc_context *rpc = rpc_init_context();
    ask(call);
    queued(rpc, call, rpc_connect_program_async(rpc, server, number, version, raw_connected, call));
    return rpc;
}

static inline nfs_fh3 handle3(const struct handle *handle) {
    nfs_fh3 fh = {.data = {handle->len, (char *)handle->val}};
    return fh;
}

static inline void got_root3(struct rpc_context *rpc, int status, void *data, void *private) {
    (void)rpc;
    struct call *call = private;
    if (!answered(call, status)) return;
    mountres3 *res = data;
    call->status = res->fhs_status;
    if (res->fhs_status == MNT3_OK) keep_handle(call, res->mountres3_u.mountinfo.fhandle.fhandle3_len, res->mountres3_u.mountinfo.fhandle.fhandle3_val);
}

/* The root of an export. */
static inline void root3(const char *server, const char *export, struct call *call) {
    struct rpc_context *mounts = program(server, MOUNT_PROGRAM, MOUNT_V3, call);
    ask(call);
    queued(mounts, call, rpc_mount3_mnt_async(mounts, got_root3, (char *)export, call));
    rpc_destroy_context(mounts);
}

static inline void got_attributes3(struct rpc_context *rpc, int status, void *data, void *private) {
    (void)rpc;
    struct call *call = private;
    if (!answered(call, status)) return;
    GETATTR3res *res = data;
    call->status = res->status;
    if (res->status != NFS3_OK) return;
    call->size = res->GETATTR3res_u.resok.obj_attributes.size;
    call->fileid = res->GETATTR3res_u.resok.obj_attributes.fileid;
    call->type = res->GETATTR3res_u.resok.obj_attributes.type;
}

static inline void attributes3(struct rpc_context *rpc, struct call *call, const struct handle *of) {
    GETATTR3args args = {.object = handle3(of)};
    ask(call);
    queued(rpc, call, rpc_nfs3_getattr_async(rpc, got_attributes3, &args, call));
}

static inline void got_data3(struct rpc_context *rpc, int status, void *data, void *private) {
    (void)rpc;
    struct call *call = private;
    if (!answered(call, status)) return;
    READ3res *res = data;
    call->status = res->status;
    if (res->status != NFS3_OK) return;
    keep_data(call, res->READ3res_u.resok.data.data_len, res->READ3res_u.resok.data.data_val);
    call->eof = res->READ3res_u.resok.eof;
}

static inline void data3(struct rpc_context *rpc, struct call *call, const struct handle *of, uint64_t at, unsigned count) {
    READ3args args = {.file = handle3(of), .offset = at, .count = count};
    ask(call);
    queued(rpc, call, rpc_nfs3_read_async(rpc, got_data3, &args, call));
}

static inline void got_name3(struct rpc_context *rpc, int status, void *data, void *private) {
    (void)rpc;
    struct call *call = private;
    if (!answered(call, status)) return;
    LOOKUP3res *res = data;
    call->status = res->status;
    if (res->status != NFS3_OK) return;
    LOOKUP3resok *ok = &res->LOOKUP3res_u.resok;
    keep_handle(call, ok->object.data.data_len, ok->object.data.data_val);
    if (ok->obj_attributes.attributes_follow) call->type = ok->obj_attributes.post_op_attr_u.attributes.type;
}

/* What a directory has by a name. */
static inline void name3(struct rpc_context *rpc, struct call *call, const struct handle *in, const char *name) {
    LOOKUP3args args = {.what = {.dir = handle3(in), .name = (char *)name}};
    ask(call);
    queued(rpc, call, rpc_nfs3_lookup_async(rpc, got_name3, &args, call));
}

#endif
