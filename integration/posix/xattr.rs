//! Extended attributes, ACLs and file capabilities.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::harness::*;

on_every_store!(
    every_namespace,
    create_and_replace_flags,
    sizes_and_errors,
    user_attributes_need_rights,
    on_symlinks_and_special_files,
    removal_and_listing,
    copy_up_keeps_attributes_acls_and_capabilities,
    an_acl_grants_and_denies,
    an_acl_is_tied_to_the_mode,
    the_root_s_acl_counts_at_once,
    default_acls_are_inherited,
    default_acls_replace_the_umask,
    tools_work,
    capabilities_work_through_the_view,
    capabilities_go_at_a_write,
    capabilities_go_at_chown,
    capabilities_of_a_file_that_is_still_open_as_it_was_made,
);

fn base(store: Store) -> Overlay {
    Overlay::new(store, |l| {
        write(l.join("file"), "below").unwrap();
        mkdir(l.join("dir"), 0o755).unwrap();
        symlink("file", l.join("sym")).unwrap();
        mknod(l.join("fifo"), FileType::Fifo, 0o644, 0).unwrap();
        setx(l.join("file"), "user.below", "from below").unwrap();
        setx(l.join("dir"), "user.below", "from below").unwrap();
    })
}

fn every_namespace(store: Store) {
    let mut ov = base(store);
    for path in ["file", "dir"] {
        for name in ["user.n", "trusted.n", "security.n"] {
            fails!(getx(ov.at(path), name), NODATA);
            setx(ov.at(path), name, format!("{name} of {path}")).unwrap();
        }
        fails!(setx(ov.at(path), "nonsense.n", "x"), OPNOTSUPP);
        fails!(setx(ov.at(path), "system.nonsense", "x"), OPNOTSUPP);
    }
    for _ in 0..2 {
        for path in ["file", "dir"] {
            for name in ["user.n", "trusted.n", "security.n"] {
                let value = getx(ov.at(path), name).unwrap();
                assert_eq!(value, format!("{name} of {path}").as_bytes());
            }
            assert_eq!(getx(ov.at(path), "user.below").unwrap(), b"from below");
            let listed = listx(ov.at(path)).unwrap();
            assert_eq!(listed, ["security.n", "trusted.n", "user.below", "user.n"]);
        }
        ov.remount();
    }
    as_user(1000, 1000, &[], || {
        assert_eq!(
            listx(ov.at("file")).unwrap(),
            ["security.n", "user.below", "user.n"]
        );
        fails!(getx(ov.at("file"), "trusted.n"), NODATA);
        fails!(setx(ov.at("file"), "trusted.n", "x"), PERM);
        fails!(setx(ov.at("file"), "security.n", "x"), PERM);
    });
    assert_eq!(listx(ov.low("file")).unwrap(), ["user.below"]);
}

fn create_and_replace_flags(store: Store) {
    let ov = base(store);
    let set = |name: &str, flags| rustix::fs::lsetxattr(ov.at("file"), name, b"v", flags);
    fails!(set("user.below", XattrFlags::CREATE), EXIST);
    fails!(set("user.none", XattrFlags::REPLACE), NODATA);
    set("user.below", XattrFlags::REPLACE).unwrap();
    set("user.none", XattrFlags::CREATE).unwrap();
    fails!(set("user.none", XattrFlags::CREATE), EXIST);
    assert_eq!(getx(ov.at("file"), "user.below").unwrap(), b"v");
}

fn sizes_and_errors(store: Store) {
    let ov = base(store);
    setx(ov.at("file"), "user.empty", "").unwrap();
    assert_eq!(getx(ov.at("file"), "user.empty").unwrap(), b"");
    setx(ov.at("file"), "user.big", vec![7; 2000]).unwrap();
    assert_eq!(getx(ov.at("file"), "user.big").unwrap(), vec![7; 2000]);
    let mut short = [0; 10];
    fails!(
        rustix::fs::lgetxattr(ov.at("file"), "user.big", &mut short[..]),
        RANGE
    );
    fails!(
        rustix::fs::llistxattr(ov.at("file"), &mut short[..2]),
        RANGE
    );
    assert_eq!(
        rustix::fs::lgetxattr_query(ov.at("file"), "user.big").unwrap(),
        2000
    );
    assert!(rustix::fs::llistxattr_query(ov.at("file")).unwrap() > 10);
    let longest = format!("user.{}", "n".repeat(250));
    setx(ov.at("file"), &longest, "v").unwrap();
    fails!(setx(ov.at("file"), &format!("{longest}x"), "v"), RANGE);
    fails!(setx(ov.at("file"), "user.huge", vec![0; 65537]), TOOBIG);
    fails!(setx(ov.at("none"), "user.n", "v"), NOENT);
    fails!(getx(ov.at("file/x"), "user.n"), NOTDIR);
}

fn user_attributes_need_rights(store: Store) {
    let ov = base(store);
    chmod(ov.at("file"), 0o600).unwrap();
    as_user(1000, 1000, &[], || {
        fails!(getx(ov.at("file"), "user.below"), ACCESS);
        fails!(setx(ov.at("file"), "user.new", "x"), ACCESS);
        fails!(setx(ov.at("dir"), "user.new", "x"), ACCESS);
        fails!(rmx(ov.at("dir"), "user.below"), ACCESS);
    });
}

fn on_symlinks_and_special_files(store: Store) {
    let ov = base(store);
    for name in ["sym", "fifo"] {
        fails!(setx(ov.at(name), "user.n", "x"), PERM);
        setx(ov.at(name), "trusted.n", "x").unwrap();
        assert_eq!(getx(ov.at(name), "trusted.n").unwrap(), b"x");
        assert_eq!(listx(ov.at(name)).unwrap(), ["trusted.n"]);
    }
    assert_eq!(
        listx(ov.at("file")).unwrap(),
        ["user.below"],
        "the link's target is left alone"
    );
    assert_eq!(readlink(ov.at("sym")).unwrap(), b"file");
}

fn removal_and_listing(store: Store) {
    let mut ov = base(store);
    setx(ov.at("file"), "user.new", "x").unwrap();
    rmx(ov.at("file"), "user.below").unwrap();
    rmx(ov.at("dir"), "user.below").unwrap();
    for _ in 0..2 {
        assert_eq!(listx(ov.at("file")).unwrap(), ["user.new"]);
        fails!(getx(ov.at("file"), "user.below"), NODATA);
        assert!(listx(ov.at("dir")).unwrap().is_empty());
        ov.remount();
    }
    fails!(rmx(ov.at("file"), "user.below"), NODATA);
    assert_eq!(getx(ov.low("file"), "user.below").unwrap(), b"from below");
}

fn some_acl(user: u32) -> Vec<u8> {
    acl(&[
        (USER_OBJ, 6, 0),
        (USER, 6, user),
        (GROUP_OBJ, 4, 0),
        (GROUP, 4, 2000),
        (MASK, 6, 0),
        (OTHER, 0, 0),
    ])
}

fn copy_up_keeps_attributes_acls_and_capabilities(store: Store) {
    let mut ov = Overlay::new(store, |l| {
        mkdir(l.join("d"), 0o755).unwrap();
        setx(l.join("d"), ACL_ACCESS, some_acl(1000)).unwrap();
        setx(l.join("d"), ACL_DEFAULT, some_acl(1001)).unwrap();
        write(l.join("d/f"), "x").unwrap();
        setx(l.join("d/f"), ACL_ACCESS, some_acl(1002)).unwrap();
        setx(l.join("d/f"), "user.u", "u").unwrap();
        setx(l.join("d/f"), "trusted.t", "t").unwrap();
        setx(l.join("d/f"), "security.s", "s").unwrap();
        setx(l.join("d/f"), "security.capability", capability(1 << 13)).unwrap();
    });
    let before = ov.tree();
    drop(open(ov.at("d/f"), OFlags::RDONLY, 0).unwrap());
    link(ov.at("d/f"), ov.at("d/g")).unwrap();
    unlink(ov.at("d/g")).unwrap();
    assert!(exists(ov.up("d/f")));
    for _ in 0..2 {
        snapshot::assert_same(&before, &ov.tree());
        ov.remount();
    }
}

fn an_acl_grants_and_denies(store: Store) {
    let mut ov = base(store);
    setx(ov.at("file"), ACL_ACCESS, some_acl(1000)).unwrap();
    setx(
        ov.at("dir"),
        ACL_ACCESS,
        acl(&[
            (USER_OBJ, 7, 0),
            (USER, 7, 1000),
            (GROUP_OBJ, 5, 0),
            (MASK, 7, 0),
            (OTHER, 0, 0),
        ]),
    )
    .unwrap();
    for round in 0..2 {
        as_user(1000, 1000, &[], || {
            append(ov.at("file"), "x").unwrap();
            write(ov.at(format!("dir/mine{round}")), "x").unwrap();
        });
        as_user(1001, 1001, &[2000], || {
            open_r(ov.at("file")).unwrap();
            fails!(open_rw(ov.at("file")), ACCESS);
            fails!(open_r(ov.at("dir/mine0")), ACCESS);
        });
        as_user(1002, 1002, &[], || {
            fails!(open_r(ov.at("file")), ACCESS);
        });
        ov.remount();
    }
    rmx(ov.at("file"), ACL_ACCESS).unwrap();
    as_user(1000, 1000, &[], || {
        fails!(open_rw(ov.at("file")), ACCESS);
    });
    fails!(setx(ov.at("file"), ACL_ACCESS, "rubbish"), OPNOTSUPP);
    fails!(
        setx(ov.at("file"), ACL_ACCESS, acl(&[(USER_OBJ, 7, 0)])),
        INVAL
    );
    as_user(1000, 1000, &[], || {
        fails!(setx(ov.at("file"), ACL_ACCESS, some_acl(1000)), PERM);
    });
}

fn an_acl_is_tied_to_the_mode(store: Store) {
    let ov = base(store);
    setx(ov.at("file"), ACL_ACCESS, some_acl(1000)).unwrap();
    assert_eq!(perm(ov.at("file")), 0o660, "the group bits are the mask");
    chmod(ov.at("file"), 0o640).unwrap();
    let masked = acl(&[
        (USER_OBJ, 6, 0),
        (USER, 6, 1000),
        (GROUP_OBJ, 4, 0),
        (GROUP, 4, 2000),
        (MASK, 4, 0),
        (OTHER, 0, 0),
    ]);
    assert_eq!(getx(ov.at("file"), ACL_ACCESS).unwrap(), masked);
    as_user(1000, 1000, &[], || {
        open_r(ov.at("file")).unwrap();
        fails!(open_rw(ov.at("file")), ACCESS);
    });
    // One that a mode can say is stored as the mode.
    setx(
        ov.at("file"),
        ACL_ACCESS,
        acl(&[(USER_OBJ, 7, 0), (GROUP_OBJ, 5, 0), (OTHER, 1, 0)]),
    )
    .unwrap();
    assert_eq!(perm(ov.at("file")), 0o751);
    fails!(getx(ov.at("file"), ACL_ACCESS), NODATA);
}

fn the_root_s_acl_counts_at_once(store: Store) {
    let mut ov = base(store);
    let keeps_out = acl(&[
        (USER_OBJ, 7, 0),
        (USER, 0, 1000),
        (GROUP_OBJ, 5, 0),
        (MASK, 5, 0),
        (OTHER, 5, 0),
    ]);
    for _ in 0..2 {
        let (root, file) = (ov.at("."), ov.at("file"));
        let user = |uid| as_user(uid, uid, &[], || lstat(&file).map(drop));
        user(1000).unwrap();
        setx(&root, ACL_ACCESS, &keeps_out).unwrap();
        fails!(user(1000), ACCESS);
        user(1001).unwrap();
        assert_eq!(getx(&root, ACL_ACCESS).unwrap(), keeps_out);
        chmod(&root, 0o750).unwrap();
        fails!(user(1001), ACCESS);
        chmod(&root, 0o755).unwrap();
        user(1001).unwrap();
        fails!(user(1000), ACCESS);
        rmx(&root, ACL_ACCESS).unwrap();
        user(1000).unwrap();
        fails!(getx(&root, ACL_ACCESS), NODATA);
        setx(&root, ACL_ACCESS, &keeps_out).unwrap();
        ov.remount();
        let file = ov.at("file");
        fails!(as_user(1000, 1000, &[], || lstat(&file).map(drop)), ACCESS);
        rmx(ov.at("."), ACL_ACCESS).unwrap();
    }
}

fn default_acls_are_inherited(store: Store) {
    let ov = base(store);
    setx(ov.at("dir"), ACL_DEFAULT, some_acl(1000)).unwrap();
    mkdir(ov.at("dir/sub"), 0o777).unwrap();
    write(ov.at("dir/f"), "x").unwrap();
    mkdir(ov.at("dir/sub/sub"), 0o777).unwrap();
    symlink("f", ov.at("dir/s")).unwrap();
    mknod(ov.at("dir/p"), FileType::Fifo, 0o666, 0).unwrap();
    assert_eq!(getx(ov.at("dir/sub"), ACL_DEFAULT).unwrap(), some_acl(1000));
    assert_eq!(
        getx(ov.at("dir/sub/sub"), ACL_DEFAULT).unwrap(),
        some_acl(1000)
    );
    fails!(getx(ov.at("dir/f"), ACL_DEFAULT), NODATA);
    fails!(setx(ov.at("dir/f"), ACL_DEFAULT, some_acl(1)), ACCESS);
    // 0644 asked: the mask is narrowed to what was asked, and nothing is widened.
    let narrowed = acl(&[
        (USER_OBJ, 6, 0),
        (USER, 6, 1000),
        (GROUP_OBJ, 4, 0),
        (GROUP, 4, 2000),
        (MASK, 4, 0),
        (OTHER, 0, 0),
    ]);
    assert_eq!(getx(ov.at("dir/f"), ACL_ACCESS).unwrap(), narrowed);
    assert_eq!(perm(ov.at("dir/f")), 0o640);
    assert_eq!(getx(ov.at("dir/p"), ACL_ACCESS).unwrap(), some_acl(1000));
    assert_eq!(
        listx(ov.at("dir/s")).unwrap_or_default(),
        Vec::<String>::new()
    );
    // A file from below that is moved in, and a copy-up, inherit nothing.
    rename(ov.at("file"), ov.at("dir/moved")).unwrap();
    fails!(getx(ov.at("dir/moved"), ACL_ACCESS), NODATA);
    assert_eq!(perm(ov.at("dir/moved")), 0o644);
}

fn default_acls_replace_the_umask(store: Store) {
    let ov = base(store);
    setx(
        ov.at("dir"),
        ACL_DEFAULT,
        acl(&[(USER_OBJ, 7, 0), (GROUP_OBJ, 7, 0), (OTHER, 5, 0)]),
    )
    .unwrap();
    mkdir(ov.at("plain"), 0o755).unwrap();
    Who::root().umask(0o077).run(|| {
        for dir in ["dir", "plain"] {
            create(ov.at(dir).join("f"), 0o666).unwrap();
            mkdir(ov.at(dir).join("d"), 0o777).unwrap();
            mknod(ov.at(dir).join("p"), FileType::Fifo, 0o666, 0).unwrap();
        }
    });
    assert_eq!(
        ["f", "d", "p"].map(|n| perm(ov.at("dir").join(n))),
        [0o664, 0o775, 0o664]
    );
    assert_eq!(
        ["f", "d", "p"].map(|n| perm(ov.at("plain").join(n))),
        [0o600, 0o700, 0o600]
    );
}

fn tool(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn tools_work(store: Store) {
    let ov = base(store);
    tool(
        Command::new("setfacl")
            .args(["-m", "u:1000:rw,g:2000:r"])
            .arg(ov.at("file")),
    );
    let shown = tool(
        Command::new("getfacl")
            .args(["-n", "-p"])
            .arg(ov.at("file")),
    );
    assert!(
        shown.contains("user:1000:rw-") && shown.contains("group:2000:r--"),
        "{shown}"
    );
    tool(
        Command::new("setfattr")
            .args(["-n", "user.k", "-v", "value"])
            .arg(ov.at("file")),
    );
    let shown = tool(
        Command::new("getfattr")
            .args(["--absolute-names", "-d"])
            .arg(ov.at("file")),
    );
    assert!(shown.contains("user.k=\"value\""), "{shown}");
    let copy = ov.at("copy");
    tool(Command::new("cp").arg("-a").arg(ov.at("file")).arg(&copy));
    assert_eq!(
        getx(&copy, ACL_ACCESS).unwrap(),
        getx(ov.at("file"), ACL_ACCESS).unwrap()
    );
    assert_eq!(getx(&copy, "user.k").unwrap(), b"value");
}

/// CAP_DAC_READ_SEARCH, with which a program of any user reads what only root may.
const READ_ALL: u32 = 1 << 2;

fn privileged(store: Store) -> Overlay {
    Overlay::new(store, |l| {
        for name in ["reader", "written", "owned"] {
            std::fs::copy("/bin/cat", l.join(name)).unwrap();
            chmod(l.join(name), 0o777).unwrap();
            setx(l.join(name), "security.capability", capability(READ_ALL)).unwrap();
        }
        write(l.join("secret"), "secret").unwrap();
        chmod(l.join("secret"), 0o600).unwrap();
    })
}

fn reads_secret(ov: &Overlay, program: &str) -> bool {
    let output = Command::new(ov.at(program))
        .arg(ov.at("secret"))
        .uid(1000)
        .gid(1000)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    output.stdout == b"secret"
}

fn capabilities_work_through_the_view(store: Store) {
    let mut ov = privileged(store);
    assert!(reads_secret(&ov, "reader"), "from below");
    chmod(ov.at("reader"), 0o755).unwrap();
    assert!(reads_secret(&ov, "reader"), "after copy-up");
    ov.remount();
    assert!(reads_secret(&ov, "reader"), "after a remount");
    rmx(ov.at("reader"), "security.capability").unwrap();
    assert!(!reads_secret(&ov, "reader"));
    std::fs::copy("/bin/cat", ov.at("new")).unwrap();
    assert!(!reads_secret(&ov, "new"));
    tool(
        Command::new("setcap")
            .arg("cap_dac_read_search+ep")
            .arg(ov.at("new")),
    );
    assert!(reads_secret(&ov, "new"));
    let shown = tool(Command::new("getcap").arg(ov.at("new")));
    assert!(shown.contains("cap_dac_read_search"), "{shown}");
}

fn capabilities_go_at_a_write(store: Store) {
    let ov = privileged(store);
    as_user(1000, 1000, &[], || append(ov.at("written"), "x").unwrap());
    fails!(getx(ov.at("written"), "security.capability"), NODATA);
    assert!(!reads_secret(&ov, "written"));
    // root's write takes them as well: that is how file capabilities work.
    append(ov.at("reader"), "x").unwrap();
    fails!(getx(ov.at("reader"), "security.capability"), NODATA);
    truncate(&ov.at("owned"), 100).unwrap();
    fails!(getx(ov.at("owned"), "security.capability"), NODATA);
}

fn capabilities_of_a_file_that_is_still_open_as_it_was_made(store: Store) {
    let ov = Overlay::new(store, |l| write(l.join("below"), "x").unwrap());
    let name = "security.capability";
    let made = create(ov.at("f"), 0o777).unwrap();
    // Opened, it is a copy that no attribute came along with.
    let copied = open_rw(ov.at("below")).unwrap();
    for (at, file) in [("f", made), ("below", copied)] {
        pwrite(&file, 0, "x").unwrap();
        let changes: [&dyn Fn(); 2] = [&|| pwrite(&file, 0, "y").unwrap(), &|| {
            lchown(ov.at(at), Some(1000), None).unwrap();
        }];
        for takes_it in changes {
            fails!(getx(ov.at(at), name), NODATA);
            setx(ov.at(at), name, capability(1)).unwrap();
            assert_eq!(getx(ov.at(at), name).unwrap(), capability(1));
            takes_it();
            fails!(getx(ov.at(at), name), NODATA);
            fails!(getx(ov.up(at), name), NODATA);
        }
    }
}

fn capabilities_go_at_chown(store: Store) {
    let ov = privileged(store);
    lchown(ov.at("owned"), Some(1000), None).unwrap();
    fails!(getx(ov.at("owned"), "security.capability"), NODATA);
    assert!(!reads_secret(&ov, "owned"));
    // Opening for write without writing leaves them.
    drop(open_rw(ov.at("reader")).unwrap());
    assert!(reads_secret(&ov, "reader"));
}
