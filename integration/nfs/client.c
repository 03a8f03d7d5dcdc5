/* client URL: an NFS client that does what it is told, one request a line, words between tabs.
 *
 * Owns: one mount by libnfs (version=3 or version=4 in the URL), files that are held open, and raw
 * calls by file handle (version 3: raw3.h). May not: judge what comes back. Each answer
 * is lines of data, which begin with '=', then "ok", or "error N TEXT": N is an errno, and of a
 * raw call or a lock of version 3 the protocol's own status. Handles and contents are in hexadecimal. */
#include <fcntl.h>
#include <stdarg.h>
#include <sys/time.h>
#include <unistd.h>

#include "raw3.h"

#include <nfsc/libnfs-raw-nfs4.h>
#include <nfsc/libnfs-raw-nlm.h>

enum { FILES = 8, WORDS = 8, LINE = 1 << 21, PARTS = 64 };

static struct nfs_context *nfs;
static struct nfs_url *url;
static int version;
static struct nfsfh *files[FILES];
/* To the lock manager of version 3, once it is asked for. */
static struct rpc_context *locks;
/* The raw call of this request. */
static struct call call;

/* Bytes as requests and answers have them. */
static const char *hex(const char *of, unsigned len) {
    static char text[2 * PIECE + 1];
    for (unsigned i = 0; i < len; i++) sprintf(text + 2 * i, "%02x", (unsigned char)of[i]);
    text[2 * len] = 0;
    return text;
}

static unsigned unhex(const char *text, char *to, unsigned most) {
    unsigned byte, len = strlen(text) / 2;
    if (len > most) die("too long", text);
    for (unsigned i = 0; i < len; i++) {
        if (sscanf(text + 2 * i, "%2x", &byte) != 1) die("no hexadecimal", text);
        to[i] = (char)byte;
    }
    return len;
}

static struct handle handle_of(const char *word) {
    struct handle handle;
    handle.len = unhex(word, handle.val, HANDLE);
    return handle;
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
            keep_handle(call, fh->nfs_fh4_len, fh->nfs_fh4_val);
        } else if (op->resop == OP_READ) {
            READ4resok *ok = &op->nfs_resop4_u.opread.READ4res_u.resok4;
            keep_data(call, ok->data.data_len, ok->data.data_val);
        } else if (op->resop == OP_GETATTR) {
            /* Both attributes that are asked for have eight bytes, in the order of their numbers. */
            attrlist4 *values = &op->nfs_resop4_u.opgetattr.GETATTR4res_u.resok4.obj_attributes.attr_vals;
            uint64_t *found[] = {&call->size, &call->fileid};
            if (values->attrlist4_len != 16) die("attributes", "not those that were asked for");
            for (int n = 0; n < 16; n++) *found[n / 8] = *found[n / 8] << 8 | (unsigned char)values->attrlist4_val[n];
        }
    }
}

static void compound(nfs_argop4 *ops, unsigned count) {
    struct rpc_context *rpc = nfs_get_rpc_context(nfs);
    COMPOUND4args args = {.argarray = {count, ops}};
    ask(&call);
    queued(rpc, &call, rpc_nfs4_compound_async(rpc, got_compound, &args, &call));
}

static nfs_argop4 put4(struct handle *handle) {
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

static void attributes4(struct handle *handle) {
    uint32_t asked = 1 << FATTR4_SIZE | 1 << FATTR4_FILEID;
    nfs_argop4 ops[] = {put4(handle), {.argop = OP_GETATTR}};
    ops[1].nfs_argop4_u.opgetattr.attr_request.bitmap4_len = 1;
    ops[1].nfs_argop4_u.opgetattr.attr_request.bitmap4_val = &asked;
    compound(ops, 2);
}

static void data4(struct handle *handle) {
    /* By the stateid that stands for no open file. */
    nfs_argop4 ops[] = {put4(handle), {.argop = OP_READ}};
    ops[1].nfs_argop4_u.opread.count = 4096;
    compound(ops, 2);
}

static void name4(struct handle *handle, char *name) {
    nfs_argop4 ops[] = {put4(handle), look4(name), {.argop = OP_GETFH}};
    compound(ops, 3);
}

/* What both have: an export's root, and from there name by name. */

static void path3(const char *path) {
    struct rpc_context *rpc = nfs_get_rpc_context(nfs);
    char whole[PATH], *rest, *part;
    root3(url->server, url->path, &call);
    snprintf(whole, sizeof whole, "%s", path);
    for (part = strtok_r(whole, "/", &rest); part && !call.status; part = strtok_r(NULL, "/", &rest)) {
        struct handle at = call.handle;
        name3(rpc, &call, &at, part);
    }
}

/* From the root of the server: the export and the path in it. */
static void path4(const char *path) {
    nfs_argop4 ops[PARTS] = {{.argop = OP_PUTROOTFH}};
    unsigned count = 1;
    char whole[8192], *rest, *part;
    snprintf(whole, sizeof whole, "%s/%s", url->path, path);
    for (part = strtok_r(whole, "/", &rest); part; part = strtok_r(NULL, "/", &rest)) {
        if (count == PARTS - 1) die("too deep", path);
        ops[count++] = look4(part);
    }
    ops[count++].argop = OP_GETFH;
    compound(ops, count);
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

static int raw(void) { return call.status ? failed(call.status, "the server's answer") : ok(); }

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
    static char piece[PIECE];
    struct nfsfh *file;
    int n, error = nfs_open(nfs, word[0], O_RDONLY, &file);
    if (error) return done(error);
    while ((n = nfs_read(nfs, file, PIECE, piece)) > 0) told("%s", hex(piece, n));
    if (n < 0) {
        done(n);
        nfs_close(nfs, file);
        return 0;
    }
    return done(nfs_close(nfs, file));
}

static int write_it(struct nfsfh *file, const char *text) {
    static char data[PIECE];
    unsigned len = unhex(text, data, PIECE);
    int n = len ? nfs_write(nfs, file, len, data) : 0;
    if (n >= 0 && n != (int)len) die("write", "short");
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
    char piece[4096];
    int n = nfs_pread(nfs, *file_of(word[0]), 0, sizeof piece, piece);
    if (n < 0) return done(n);
    told("%s", hex(piece, n));
    return ok();
}

static int do_pwrite(char **word) {
    char data[4096];
    unsigned len = unhex(word[1], data, sizeof data);
    int n = nfs_pwrite(nfs, *file_of(word[0]), 0, len, data);
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
    struct handle handle = handle_of(word[0]);
    if (!locks) locks = program(url->server, NLM_PROGRAM, NLM_V4, &call);
    ask(&call);
    snprintf(owner, sizeof owner, "client %d", getpid());
    nlm4_lock lock = {.caller_name = owner, .fh = {.data = {handle.len, handle.val}}, .oh = owner, .svid = getpid(),
        .l_offset = strtoull(word[1], NULL, 10), .l_len = strtoull(word[2], NULL, 10)};
    nlm_cookie cookie = {.data = {strlen(owner), owner}};
    if (kind == F_UNLCK) {
        NLM4_UNLOCKargs args = {.cookie = cookie, .lock = lock};
        queued(locks, &call, rpc_nlm4_unlock_async(locks, got_lock3, &args, &call));
    } else {
        NLM4_LOCKargs args = {.cookie = cookie, .exclusive = 1, .lock = lock};
        queued(locks, &call, rpc_nlm4_lock_async(locks, got_lock3, &args, &call));
    }
    return raw();
}

static int lock4(int kind, char **word) {
    struct nfs4_flock lock = {.l_type = kind, .l_whence = SEEK_SET, .l_pid = getpid(),
        .l_start = strtoull(word[1], NULL, 10), .l_len = strtoull(word[2], NULL, 10)};
    return done(nfs_fcntl(nfs, *file_of(word[0]), NFS4_F_SETLK, &lock));
}

static int do_lock(char **word) { return version == 3 ? lock3(F_WRLCK, word) : lock4(F_WRLCK, word); }
static int do_unlock(char **word) { return version == 3 ? lock3(F_UNLCK, word) : lock4(F_UNLCK, word); }

/* handle PATH; then by that handle: fattr HANDLE, fread HANDLE, flook HANDLE NAME. */

static int do_handle(char **word) {
    (version == 3 ? path3 : path4)(word[0]);
    if (!call.status) told("%s", hex(call.handle.val, call.handle.len));
    return raw();
}

static int do_fattr(char **word) {
    struct handle handle = handle_of(word[0]);
    if (version == 3) attributes3(nfs_get_rpc_context(nfs), &call, &handle);
    else attributes4(&handle);
    if (!call.status) told("%lu %lu", call.fileid, call.size);
    return raw();
}

static int do_fread(char **word) {
    struct handle handle = handle_of(word[0]);
    if (version == 3) data3(nfs_get_rpc_context(nfs), &call, &handle, 0, 4096);
    else data4(&handle);
    if (!call.status) told("%s", hex(call.data, call.len));
    return raw();
}

static int do_flook(char **word) {
    struct handle handle = handle_of(word[0]);
    if (version == 3) name3(nfs_get_rpc_context(nfs), &call, &handle, word[1]);
    else name4(&handle, word[1]);
    if (!call.status) told("%s", hex(call.handle.val, call.handle.len));
    return raw();
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
