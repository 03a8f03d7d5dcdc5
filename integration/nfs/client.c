/* client URL: an NFS client that does what it is told, one request a line, words between tabs.
 *
 * Owns: one mount by libnfs (version=3 or version=4 in the URL), files that are held open, and raw
 * calls by file handle, which libnfs has no functions for. May not: judge what comes back. Each answer
 * is lines of data, which begin with '=', then "ok", or "error N TEXT": N is an errno, and of a
 * raw call or a lock of version 3 the protocol's own status. Handles and contents are in hexadecimal. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include <nfsc/libnfs.h>
#include <nfsc/libnfs-raw.h>
#include <nfsc/libnfs-raw-mount.h>
#include <nfsc/libnfs-raw-nfs.h>
#include <nfsc/libnfs-raw-nfs4.h>
#include <nfsc/libnfs-raw-nlm.h>

enum { FILES = 8, WORDS = 8, LINE = 1 << 21, HANDLE = 128, PIECE = 1 << 16, PARTS = 64 };

static struct nfs_context *nfs;
static struct nfs_url *url;
static int version;
static struct nfsfh *files[FILES];
/* To the lock manager of version 3, once it is asked for. */
static struct rpc_context *locks;

static void die(const char *what, const char *why) {
    fprintf(stderr, "client: %s: %s\n", what, why);
    exit(2);
}

/* Bytes and how many there are. */
struct bytes { unsigned len; char val[PIECE]; };

static const char *hex(const struct bytes *of) {
    static char text[2 * PIECE + 1];
    for (unsigned i = 0; i < of->len; i++) sprintf(text + 2 * i, "%02x", (unsigned char)of->val[i]);
    text[2 * of->len] = 0;
    return text;
}

static struct bytes unhex(const char *text) {
    struct bytes found = {strlen(text) / 2, {0}};
    if (found.len > PIECE) die("too long", text);
    for (unsigned i = 0; i < found.len; i++) {
        unsigned byte;
        if (sscanf(text + 2 * i, "%2x", &byte) != 1) die("no hexadecimal", text);
        found.val[i] = (char)byte;
    }
    return found;
}

/* A raw call that is waited for, and what came of it. */
struct call {
    int done;
    /* The protocol's status; below 0 where there was no answer at all. */
    int status;
    uint64_t size, fileid;
    struct bytes handle, data;
};

static void wait_for(struct rpc_context *rpc, struct call *call) {
    while (!call->done) {
        struct pollfd fd = {.fd = rpc_get_fd(rpc), .events = (short)rpc_which_events(rpc)};
        if (poll(&fd, 1, 1000) < 0 && errno != EINTR) die("poll", strerror(errno));
        if (rpc_service(rpc, fd.revents) < 0) die("connection", rpc_get_error(rpc));
    }
}

static void queued(struct rpc_context *rpc, int error) {
    if (error != 0) die("call", rpc_get_error(rpc));
}

/* Is there an answer? */
static int answered(struct call *call, int status) {
    call->done = 1;
    call->status = -EIO;
    return status == RPC_STATUS_SUCCESS;
}

static void keep(struct bytes *to, unsigned len, const char *val) {
    if (len > PIECE) die("an answer", "too long");
    to->len = len;
    memcpy(to->val, val, len);
}

static void connected(struct rpc_context *rpc, int status, void *data, void *private) {
    (void)data;
    struct call *call = private;
    if (!answered(call, status)) die("connection", rpc_get_error(rpc));
}

/* Another program of the same server, found by its portmapper. */
static struct rpc_context *program(int number, int of_version) {
    struct rpc_context *rpc = rpc_init_context();
    struct call call = {0};
    queued(rpc, rpc_connect_program_async(rpc, url->server, number, of_version, connected, &call));
    wait_for(rpc, &call);
    return rpc;
}

/* Version 3: attributes, contents and names by handle. */

static nfs_fh3 handle3(struct bytes *handle) {
    nfs_fh3 fh = {.data = {handle->len, handle->val}};
    return fh;
}

static void got_attributes3(struct rpc_context *rpc, int status, void *data, void *private) {
    (void)rpc;
    struct call *call = private;
    if (!answered(call, status)) return;
    GETATTR3res *res = data;
    call->status = res->status;
    if (res->status != NFS3_OK) return;
    call->size = res->GETATTR3res_u.resok.obj_attributes.size;
    call->fileid = res->GETATTR3res_u.resok.obj_attributes.fileid;
}

static void got_data3(struct rpc_context *rpc, int status, void *data, void *private) {
    (void)rpc;
    struct call *call = private;
    if (!answered(call, status)) return;
    READ3res *res = data;
    call->status = res->status;
    if (res->status == NFS3_OK) keep(&call->data, res->READ3res_u.resok.data.data_len, res->READ3res_u.resok.data.data_val);
}

static void got_name3(struct rpc_context *rpc, int status, void *data, void *private) {
    (void)rpc;
    struct call *call = private;
    if (!answered(call, status)) return;
    LOOKUP3res *res = data;
    call->status = res->status;
    if (res->status == NFS3_OK) keep(&call->handle, res->LOOKUP3res_u.resok.object.data.data_len, res->LOOKUP3res_u.resok.object.data.data_val);
}

static void attributes3(struct call *call, struct bytes *handle) {
    struct rpc_context *rpc = nfs_get_rpc_context(nfs);
    GETATTR3args args = {.object = handle3(handle)};
    queued(rpc, rpc_nfs3_getattr_async(rpc, got_attributes3, &args, call));
    wait_for(rpc, call);
}

static void data3(struct call *call, struct bytes *handle) {
    struct rpc_context *rpc = nfs_get_rpc_context(nfs);
    READ3args args = {.file = handle3(handle), .offset = 0, .count = 4096};
    queued(rpc, rpc_nfs3_read_async(rpc, got_data3, &args, call));
    wait_for(rpc, call);
}

static void name3(struct call *call, struct bytes *handle, char *name) {
    struct rpc_context *rpc = nfs_get_rpc_context(nfs);
    LOOKUP3args args = {.what = {.dir = handle3(handle), .name = name}};
    queued(rpc, rpc_nfs3_lookup_async(rpc, got_name3, &args, call));
    wait_for(rpc, call);
}

/* Version 4: the same, each a compound. */

static void got_compound(struct rpc_context *rpc, int status, void *data, void *private) {
    (void)rpc;
    struct call *call = private;
    if (!answered(call, status)) return;
    COMPOUND4res *res = data;
    call->status = res->status;
    if (res->status != NFS4_OK) return;
    for (unsigned i = 0; i < res->resarray.resarray_len; i++) {
        nfs_resop4 *op = &res->resarray.resarray_val[i];
        if (op->resop == OP_GETFH) {
            nfs_fh4 *fh = &op->nfs_resop4_u.opgetfh.GETFH4res_u.resok4.object;
            keep(&call->handle, fh->nfs_fh4_len, fh->nfs_fh4_val);
        } else if (op->resop == OP_READ) {
            READ4resok *ok = &op->nfs_resop4_u.opread.READ4res_u.resok4;
            keep(&call->data, ok->data.data_len, ok->data.data_val);
        } else if (op->resop == OP_GETATTR) {
            /* Both attributes that are asked for have eight bytes, in the order of their numbers. */
            attrlist4 *values = &op->nfs_resop4_u.opgetattr.GETATTR4res_u.resok4.obj_attributes.attr_vals;
            uint64_t *found[] = {&call->size, &call->fileid};
            if (values->attrlist4_len != 16) die("attributes", "not those that were asked for");
            for (int n = 0; n < 16; n++) *found[n / 8] = *found[n / 8] << 8 | (unsigned char)values->attrlist4_val[n];
        }
    }
}

static void compound(struct call *call, nfs_argop4 *ops, unsigned count) {
    struct rpc_context *rpc = nfs_get_rpc_context(nfs);
    COMPOUND4args args = {.argarray = {count, ops}};
    queued(rpc, rpc_nfs4_compound_async(rpc, got_compound, &args, call));
    wait_for(rpc, call);
}

static nfs_argop4 put4(struct bytes *handle) {
    nfs_argop4 op = {.argop = OP_PUTFH};
    op.nfs_argop4_u.opputfh.object.nfs_fh4_len = handle->len;
    op.nfs_argop4_u.opputfh.object.nfs_fh4_val = handle->val;
    return op;
}

static nfs_argop4 look4(char *name) {
    nfs_argop4 op = {.argop = OP_LOOKUP};
    op.nfs_argop4_u.oplookup.objname.utf8string_len = strlen(name);
    op.nfs_argop4_u.oplookup.objname.utf8string_val = name;
    return op;
}

static void attributes4(struct call *call, struct bytes *handle) {
    uint32_t asked = 1 << FATTR4_SIZE | 1 << FATTR4_FILEID;
    nfs_argop4 ops[] = {put4(handle), {.argop = OP_GETATTR}};
    ops[1].nfs_argop4_u.opgetattr.attr_request.bitmap4_len = 1;
    ops[1].nfs_argop4_u.opgetattr.attr_request.bitmap4_val = &asked;
    compound(call, ops, 2);
}

static void data4(struct call *call, struct bytes *handle) {
    /* By the stateid that stands for no open file. */
    nfs_argop4 ops[] = {put4(handle), {.argop = OP_READ}};
    ops[1].nfs_argop4_u.opread.count = 4096;
    compound(call, ops, 2);
}

static void name4(struct call *call, struct bytes *handle, char *name) {
    nfs_argop4 ops[] = {put4(handle), look4(name), {.argop = OP_GETFH}};
    compound(call, ops, 3);
}

/* What both have: an export's root, and from there name by name. */

static void got_root3(struct rpc_context *rpc, int status, void *data, void *private) {
    (void)rpc;
    struct call *call = private;
    if (!answered(call, status)) return;
    mountres3 *res = data;
    call->status = res->fhs_status;
    if (res->fhs_status == MNT3_OK) keep(&call->handle, res->mountres3_u.mountinfo.fhandle.fhandle3_len, res->mountres3_u.mountinfo.fhandle.fhandle3_val);
}

static void path3(struct call *call, const char *path) {
    static struct bytes root, at;
    char whole[4096], *rest, *part;
    if (!root.len) {
        struct rpc_context *mounts = program(MOUNT_PROGRAM, MOUNT_V3);
        queued(mounts, rpc_mount3_mnt_async(mounts, got_root3, url->path, call));
        wait_for(mounts, call);
        rpc_destroy_context(mounts);
        if (call->status) return;
        root = call->handle;
    }
    call->handle = root;
    snprintf(whole, sizeof whole, "%s", path);
    for (part = strtok_r(whole, "/", &rest); part && !call->status; part = strtok_r(NULL, "/", &rest)) {
        at = call->handle;
        *call = (struct call){0};
        name3(call, &at, part);
    }
}

/* From the root of the server: the export and the path in it. */
static void path4(struct call *call, const char *path) {
    nfs_argop4 ops[PARTS] = {{.argop = OP_PUTROOTFH}};
    unsigned count = 1;
    char whole[8192], *rest, *part;
    snprintf(whole, sizeof whole, "%s/%s", url->path, path);
    for (part = strtok_r(whole, "/", &rest); part; part = strtok_r(NULL, "/", &rest)) {
        if (count == PARTS - 1) die("too deep", path);
        ops[count++] = look4(part);
    }
    ops[count++].argop = OP_GETFH;
    compound(call, ops, count);
}

/* Answers. */

static int ok(void) {
    puts("ok");
    return 0;
}

static int failed(int error, const char *why) {
    printf("error %d %s\n", error, why ? why : "");
    return 0;
}

/* What a function of libnfs returned. */
static int done(int result) { return result < 0 ? failed(-result, nfs_get_error(nfs)) : ok(); }

static int raw(const struct call *call) {
    return call->status ? failed(call->status, "the server's answer") : ok();
}

static void told(const char *format, ...) {
    va_list args;
    va_start(args, format);
    putchar('=');
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

/* Requests; words begin behind the request's own. */

static int do_stat(char **word) {
    struct nfs_stat_64 st;
    int error = nfs_lstat64(nfs, word[0], &st);
    if (!error) told("%lo %lu %lu %lu %lu %lu %lu", st.nfs_mode, st.nfs_ino, st.nfs_nlink, st.nfs_uid, st.nfs_gid, st.nfs_size, st.nfs_mtime);
    return done(error);
}

static int do_list(char **word) {
    struct nfsdir *dir;
    struct nfsdirent *entry;
    int error = nfs_opendir(nfs, word[0], &dir);
    if (error) return done(error);
    while ((entry = nfs_readdir(nfs, dir))) told("%s", entry->name);
    nfs_closedir(nfs, dir);
    return ok();
}

static int do_read(char **word) {
    static struct bytes piece;
    struct nfsfh *file;
    int n, error = nfs_open(nfs, word[0], O_RDONLY, &file);
    if (error) return done(error);
    while ((n = nfs_read(nfs, file, PIECE, piece.val)) > 0) {
        piece.len = n;
        told("%s", hex(&piece));
    }
    if (n < 0) {
        done(n);
        nfs_close(nfs, file);
        return 0;
    }
    return done(nfs_close(nfs, file));
}

static int write_it(struct nfsfh *file, const char *text) {
    struct bytes data = unhex(text);
    int n = data.len ? nfs_write(nfs, file, data.len, data.val) : 0;
    if (n >= 0 && n != (int)data.len) die("write", "short");
    if (n < 0) {
        done(n);
        nfs_close(nfs, file);
        return 0;
    }
    return done(nfs_close(nfs, file));
}

/* nfs_creat() of version 4 opens what it makes for reading alone. */
static int create_it(const char *path, struct nfsfh **file) {
    return nfs_open2(nfs, path, O_CREAT | O_TRUNC | O_RDWR, 0644, file);
}

static int do_create(char **word) {
    struct nfsfh *file;
    int error = create_it(word[0], &file);
    return error ? done(error) : write_it(file, word[1]);
}

static int do_append(char **word) {
    struct nfsfh *file;
    int error = nfs_open(nfs, word[0], O_WRONLY | O_APPEND, &file);
    return error ? done(error) : write_it(file, word[1]);
}

static int do_mkdir(char **word) { return done(nfs_mkdir2(nfs, word[0], 0755)); }
static int do_rmdir(char **word) { return done(nfs_rmdir(nfs, word[0])); }
static int do_unlink(char **word) { return done(nfs_unlink(nfs, word[0])); }
static int do_rename(char **word) { return done(nfs_rename(nfs, word[0], word[1])); }
static int do_link(char **word) { return done(nfs_link(nfs, word[0], word[1])); }
static int do_symlink(char **word) { return done(nfs_symlink(nfs, word[0], word[1])); }
static int do_truncate(char **word) { return done(nfs_truncate(nfs, word[0], strtoull(word[1], NULL, 10))); }
static int do_chmod(char **word) { return done(nfs_chmod(nfs, word[0], (int)strtol(word[1], NULL, 8))); }
static int do_chown(char **word) { return done(nfs_chown(nfs, word[0], atoi(word[1]), atoi(word[2]))); }

static int do_mtime(char **word) {
    struct timeval times[2] = {{.tv_sec = atol(word[1])}, {.tv_sec = atol(word[1])}};
    return done(nfs_utimes(nfs, word[0], times));
}

static int do_readlink(char **word) {
    char target[4096];
    int error = nfs_readlink(nfs, word[0], target, sizeof target);
    if (!error) told("%s", target);
    return done(error);
}

/* many DIR PREFIX COUNT: empty files; fewer DIR PREFIX COUNT: gone again. */
static int do_many(char **word) {
    char path[4096];
    for (int n = 0; n < atoi(word[2]); n++) {
        struct nfsfh *file;
        snprintf(path, sizeof path, "%s/%s%d", word[0], word[1], n);
        int error = create_it(path, &file);
        if (!error) error = nfs_close(nfs, file);
        if (error) return done(error);
    }
    return ok();
}

static int do_fewer(char **word) {
    char path[4096];
    for (int n = 0; n < atoi(word[2]); n++) {
        snprintf(path, sizeof path, "%s/%s%d", word[0], word[1], n);
        int error = nfs_unlink(nfs, path);
        if (error) return done(error);
    }
    return ok();
}

/* Files that are held open, by number. */

static struct nfsfh **file_of(const char *word) {
    int n = atoi(word);
    if (n < 0 || n >= FILES) die("no such file", word);
    return &files[n];
}

static int do_open(char **word) { return done(nfs_open(nfs, word[1], O_RDWR, file_of(word[0]))); }

static int do_close(char **word) {
    struct nfsfh **file = file_of(word[0]);
    int error = nfs_close(nfs, *file);
    *file = NULL;
    return done(error);
}

static int do_pread(char **word) {
    static struct bytes piece;
    int n = nfs_pread(nfs, *file_of(word[0]), 0, 4096, piece.val);
    if (n < 0) return done(n);
    piece.len = n;
    told("%s", hex(&piece));
    return ok();
}

static int do_pwrite(char **word) {
    struct bytes data = unhex(word[1]);
    int n = nfs_pwrite(nfs, *file_of(word[0]), 0, data.len, data.val);
    return n < 0 ? done(n) : done(nfs_fsync(nfs, *file_of(word[0])));
}

/* lock FILE START LEN, unlock FILE START LEN: a byte range, exclusive, without waiting. FILE is a file's handle over version 3, which
 * has a lock manager beside it, and the number of one that is held open over version 4. */

static void got_lock3(struct rpc_context *rpc, int status, void *data, void *private) {
    (void)rpc;
    struct call *call = private;
    /* Of a lock and an unlock the answer is the same. */
    if (answered(call, status)) call->status = ((NLM4_LOCKres *)data)->status;
}

static int lock3(int kind, char **word) {
    static char owner[32];
    struct call call = {0};
    struct bytes handle = unhex(word[0]);
    if (!locks) locks = program(NLM_PROGRAM, NLM_V4);
    snprintf(owner, sizeof owner, "client %d", getpid());
    nlm4_lock lock = {.caller_name = owner, .fh = {.data = {handle.len, handle.val}}, .oh = owner, .svid = getpid(),
        .l_offset = strtoull(word[1], NULL, 10), .l_len = strtoull(word[2], NULL, 10)};
    nlm_cookie cookie = {.data = {strlen(owner), owner}};
    if (kind == F_UNLCK) {
        NLM4_UNLOCKargs args = {.cookie = cookie, .lock = lock};
        queued(locks, rpc_nlm4_unlock_async(locks, got_lock3, &args, &call));
    } else {
        NLM4_LOCKargs args = {.cookie = cookie, .exclusive = 1, .lock = lock};
        queued(locks, rpc_nlm4_lock_async(locks, got_lock3, &args, &call));
    }
    wait_for(locks, &call);
    return raw(&call);
}

static int lock4(int kind, char **word) {
    struct nfs4_flock lock = {.l_type = kind, .l_whence = SEEK_SET, .l_pid = getpid(),
        .l_start = strtoull(word[1], NULL, 10), .l_len = strtoull(word[2], NULL, 10)};
    return done(nfs_fcntl(nfs, *file_of(word[0]), NFS4_F_SETLK, &lock));
}

static int do_lock(char **word) { return version == 3 ? lock3(F_WRLCK, word) : lock4(F_WRLCK, word); }
static int do_unlock(char **word) { return version == 3 ? lock3(F_UNLCK, word) : lock4(F_UNLCK, word); }

/* handle PATH; then by that handle: fattr HANDLE, fread HANDLE, flook HANDLE NAME. */

static struct call call;

static int do_handle(char **word) {
    call = (struct call){0};
    (version == 3 ? path3 : path4)(&call, word[0]);
    if (!call.status) told("%s", hex(&call.handle));
    return raw(&call);
}

static int do_fattr(char **word) {
    struct bytes handle = unhex(word[0]);
    call = (struct call){0};
    (version == 3 ? attributes3 : attributes4)(&call, &handle);
    if (!call.status) told("%lu %lu", call.fileid, call.size);
    return raw(&call);
}

static int do_fread(char **word) {
    struct bytes handle = unhex(word[0]);
    call = (struct call){0};
    (version == 3 ? data3 : data4)(&call, &handle);
    if (!call.status) told("%s", hex(&call.data));
    return raw(&call);
}

static int do_flook(char **word) {
    struct bytes handle = unhex(word[0]);
    call = (struct call){0};
    (version == 3 ? name3 : name4)(&call, &handle, word[1]);
    if (!call.status) told("%s", hex(&call.handle));
    return raw(&call);
}

static const struct request { const char *name; int words; int (*act)(char **); } requests[] = {
    {"stat", 1, do_stat}, {"list", 1, do_list}, {"read", 1, do_read}, {"readlink", 1, do_readlink},
    {"create", 2, do_create}, {"append", 2, do_append}, {"mkdir", 1, do_mkdir}, {"rmdir", 1, do_rmdir},
    {"unlink", 1, do_unlink}, {"rename", 2, do_rename}, {"link", 2, do_link}, {"symlink", 2, do_symlink},
    {"truncate", 2, do_truncate}, {"chmod", 2, do_chmod}, {"chown", 3, do_chown}, {"mtime", 2, do_mtime},
    {"many", 3, do_many}, {"fewer", 3, do_fewer}, {"open", 2, do_open}, {"close", 1, do_close},
    {"pread", 1, do_pread}, {"pwrite", 2, do_pwrite}, {"lock", 3, do_lock}, {"unlock", 3, do_unlock},
    {"handle", 1, do_handle}, {"fattr", 1, do_fattr}, {"fread", 1, do_fread}, {"flook", 2, do_flook},
};

static void serve(char *line) {
    char *word[WORDS] = {0}, *rest = line;
    int count = 0;
    line[strcspn(line, "\n")] = 0;
    while (count < WORDS && rest) word[count++] = strsep(&rest, "\t");
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        if (strcmp(requests[i].name, word[0])) continue;
        if (requests[i].words != count - 1) die("not so many words", word[0]);
        requests[i].act(word + 1);
        fflush(stdout);
        return;
    }
    die("no such request", word[0]);
}

int main(int argc, char **argv) {
    static char line[LINE];
    if (argc != 2) die("usage", "client URL");
    nfs = nfs_init_context();
    url = nfs_parse_url_dir(nfs, argv[1]);
    if (!url) die(argv[1], nfs_get_error(nfs));
    version = strstr(argv[1], "version=4") ? 4 : 3;
    /* What is asked is asked the server. */
    nfs_set_dircache(nfs, 0);
    if (nfs_mount(nfs, url->server, url->path)) die(argv[1], nfs_get_error(nfs));
    puts("ok");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) serve(line);
    return 0;
}
