//! What files hold: reads, writes, holes, copies, maps, and what happens when the store is full.

use std::io::{Read, Write};

use rustix::fs::{copy_file_range, fallocate, fdatasync, fsync, ftruncate, seek};

use crate::harness::*;

on_every_store!(
    reads_and_writes_at_offsets,
    append_mode_appends,
    offsets_beyond_4_gib,
    big_files_copy_up_whole,
    seek_finds_data_and_holes,
    sparse_files_keep_their_holes_at_copy_up,
    fallocate_reserves_and_keeps_size,
    fallocate_punches_and_zeroes,
    copy_file_range_copies,
    copy_file_range_errors,
    sendfile_and_splice_work,
    fsync_works_on_everything,
    a_shared_map_sees_writes,
    a_write_through_a_map_is_seen,
    a_private_map_stays_private,
    a_map_outlives_its_name,
    a_read_map_from_before_copy_up_stays_valid,
    direct_io_agrees_with_cached,
    o_sync_and_o_noatime,
    exec_works,
    exec_while_written_is_refused,
);

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn base(store: Store) -> Overlay {
    Overlay::new(store, |l| {
        write(l.join("file"), pattern(10_000)).unwrap();
        mkdir(l.join("dir"), 0o755).unwrap();
    })
}

fn reads_and_writes_at_offsets(store: Store) {
    let ov = base(store);
    let file = open_rw(ov.at("file")).unwrap();
    let mut expect = pattern(10_000);
    assert_eq!(pread(&file, 0, 20_000).unwrap(), expect);
    for (at, len) in [(0usize, 1usize), (4095, 2), (8191, 5000), (20_000, 3)] {
        let bytes = vec![at as u8; len];
        pwrite(&file, at as u64, &bytes).unwrap();
        if expect.len() < at + len {
            expect.resize(at + len, 0);
        }
        expect[at..at + len].copy_from_slice(&bytes);
        assert_eq!(read(ov.at("file")).unwrap(), expect);
        assert_eq!(lstat(ov.at("file")).unwrap().st_size as usize, expect.len());
    }
    assert!(pread(&file, 30_000, 10).unwrap().is_empty());
    assert_eq!(read(ov.low("file")).unwrap(), pattern(10_000));
    let reader = open_r(ov.at("file")).unwrap();
    fails!(pwrite(&reader, 0, "x"), BADF);
    let writer = open(ov.at("file"), OFlags::WRONLY, 0).unwrap();
    fails!(pread(&writer, 0, 1), BADF);
    let dir = open_r(ov.at("dir")).unwrap();
    fails!(pread(&dir, 0, 1), ISDIR);
}

fn append_mode_appends(store: Store) {
    let ov = base(store);
    let flags = OFlags::WRONLY | OFlags::APPEND;
    let (mut one, mut two) = (
        open(ov.at("file"), flags, 0).unwrap(),
        open(ov.at("file"), flags, 0).unwrap(),
    );
    for i in 0..50 {
        one.write_all(&[i]).unwrap();
        two.write_all(&[i]).unwrap();
    }
    let content = read(ov.at("file")).unwrap();
    assert_eq!(content[..10_000], pattern(10_000));
    let expect: Vec<u8> = (0..50).flat_map(|i| [i, i]).collect();
    assert_eq!(content[10_000..], expect);
}

fn offsets_beyond_4_gib(store: Store) {
    let mut ov = Overlay::new(store, |l| {
        let file = create(l.join("far"), 0o644).unwrap();
        pwrite(&file, (5 << 30) + 3, "below").unwrap();
    });
    assert_eq!(lstat(ov.at("far")).unwrap().st_size, (5 << 30) + 8);
    let file = open_rw(ov.at("far")).unwrap();
    assert_eq!(pread(&file, (5 << 30) + 3, 9).unwrap(), b"below");
    pwrite(&file, (1 << 32) - 2, "across").unwrap();
    pwrite(&file, 6 << 30, "end").unwrap();
    drop(file);
    ov.remount();
    let file = open_r(ov.at("far")).unwrap();
    assert_eq!(pread(&file, (1 << 32) - 3, 8).unwrap(), b"\0across\0");
    assert_eq!(pread(&file, (5 << 30) + 3, 5).unwrap(), b"below");
    assert_eq!(pread(&file, 6 << 30, 9).unwrap(), b"end");
    assert_eq!(fstat(&file).st_size, (6 << 30) + 3);
    assert!(fstat(&file).st_blocks < 2048, "holes were filled");
    ftruncate(open_rw(ov.at("far")).unwrap(), (1 << 32) + 1).unwrap();
    assert_eq!(fstat(&file).st_size, (1 << 32) + 1);
}

fn big_files_copy_up_whole(store: Store) {
    let bytes = pattern(9_000_001);
    let ov = Overlay::new(store, |l| write(l.join("big"), &bytes).unwrap());
    append(ov.at("big"), "!").unwrap();
    let content = read(ov.at("big")).unwrap();
    assert!(content[..9_000_001] == bytes[..] && content[9_000_001..] == *b"!");
    assert!(read(ov.up("big")).unwrap() == content);
    assert!(
        names(&ov.work).iter().all(|n| n == "work" || n == "index"),
        "{:?}",
        names(&ov.work)
    );
}

fn sparse(path: &std::path::Path) {
    let file = create(path, 0o644).unwrap();
    ftruncate(&file, 64 << 20).unwrap();
    pwrite(&file, 8 << 20, pattern(4096)).unwrap();
    pwrite(&file, 32 << 20, pattern(8192)).unwrap();
}

fn seek_finds_data_and_holes(store: Store) {
    let ov = Overlay::new(store, |l| sparse(&l.join("sparse")));
    sparse(&ov.at("new"));
    for name in ["sparse", "new"] {
        let file = open_r(ov.at(name)).unwrap();
        assert_eq!(
            data_ranges(&file),
            [(8 << 20, (8 << 20) + 4096), (32 << 20, (32 << 20) + 8192)],
            "{name}"
        );
        assert_eq!(seek(&file, SeekFrom::Hole(0)).unwrap(), 0);
        assert_eq!(seek(&file, SeekFrom::Data(8 << 20)).unwrap(), 8 << 20);
        fails!(seek(&file, SeekFrom::Data(48 << 20)), NXIO);
        fails!(seek(&file, SeekFrom::Hole(64 << 20)), NXIO);
        assert_eq!(seek(&file, SeekFrom::End(-1)).unwrap(), (64 << 20) - 1);
        fails!(seek(&file, SeekFrom::Current(-(65 << 20))), INVAL);
    }
}

fn sparse_files_keep_their_holes_at_copy_up(store: Store) {
    let mut ov = Overlay::new(store, |l| {
        sparse(&l.join("sparse"));
        let all = create(l.join("hole"), 0o644).unwrap();
        ftruncate(&all, 64 << 20).unwrap();
    });
    let before = read(ov.at("sparse")).unwrap();
    let blocks = lstat(ov.at("sparse")).unwrap().st_blocks;
    for name in ["sparse", "hole"] {
        drop(open_rw(ov.at(name)).unwrap());
        assert!(exists(ov.up(name)));
    }
    ov.remount();
    // Overlayfs copies whole MiB where there is any data; this is what it may take more.
    let slack = if ov.is_overlayfs() { 3 * 2048 } else { 16 };
    assert!(read(ov.at("sparse")).unwrap() == before);
    assert!(lstat(ov.at("sparse")).unwrap().st_blocks <= blocks + slack);
    assert!(lstat(ov.up("sparse")).unwrap().st_blocks <= blocks + slack);
    assert!(lstat(ov.up("hole")).unwrap().st_blocks <= 16);
    assert_eq!(lstat(ov.at("hole")).unwrap().st_size, 64 << 20);
}

fn fallocate_reserves_and_keeps_size(store: Store) {
    let ov = base(store);
    let file = open_rw(ov.at("file")).unwrap();
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20).unwrap();
    assert_eq!(fstat(&file).st_size, 10_000);
    assert!(fstat(&file).st_blocks >= 2048);
    fallocate(&file, FallocateFlags::empty(), 1 << 20, 1 << 20).unwrap();
    assert_eq!(fstat(&file).st_size, 2 << 20);
    assert_eq!(pread(&file, 0, 10_000).unwrap(), pattern(10_000));
    assert_eq!(pread(&file, 10_000, 9).unwrap(), [0; 9]);
    fails!(fallocate(&file, FallocateFlags::empty(), 0, 0), INVAL);
    let reader = open_r(ov.at("file")).unwrap();
    fails!(fallocate(&reader, FallocateFlags::empty(), 0, 1), BADF);
}

fn fallocate_punches_and_zeroes(store: Store) {
    let ov = Overlay::new(store, |l| write(l.join("file"), pattern(65_536)).unwrap());
    let file = open_rw(ov.at("file")).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 8192, 16_384).unwrap();
    let mut expect = pattern(65_536);
    expect[8192..24_576].fill(0);
    assert!(read(ov.at("file")).unwrap() == expect);
    assert_eq!(data_ranges(&file), [(0, 8192), (24_576, 65_536)]);
    fallocate(&file, punch, 100, 50).unwrap();
    expect[100..150].fill(0);
    assert!(read(ov.at("file")).unwrap() == expect);
    match fallocate(&file, FallocateFlags::ZERO_RANGE, 40_000, 1000) {
        Ok(()) => expect[40_000..41_000].fill(0),
        // tmpfs can't.
        Err(e) => assert_eq!(e, Errno::OPNOTSUPP),
    }
    assert!(read(ov.at("file")).unwrap() == expect);
    assert!(read(ov.low("file")).unwrap() == pattern(65_536));
}

fn copy_file_range_copies(store: Store) {
    let ov = base(store);
    if ov.is_overlayfs() {
        // It answers EXDEV from a lower file to an upper one on another file system.
        chmod(ov.at("file"), 0o644).unwrap();
    }
    let from = open_r(ov.at("file")).unwrap();
    write(ov.at("new"), "0123456789").unwrap();
    let to = open_rw(ov.at("new")).unwrap();
    let copy = |mut a: u64, mut b: u64, n: usize| {
        let mut left = n;
        while left > 0 {
            match copy_file_range(&from, Some(&mut a), &to, Some(&mut b), left).unwrap() {
                0 => break,
                done => left -= done,
            }
        }
        n - left
    };
    assert_eq!(copy(100, 5, 50), 50);
    let mut expect = b"01234".to_vec();
    expect.extend(&pattern(10_000)[100..150]);
    assert_eq!(read(ov.at("new")).unwrap(), expect);
    assert_eq!(copy(9_990, 100, 50), 10);
    assert_eq!(lstat(ov.at("new")).unwrap().st_size, 110);
    assert_eq!(copy(20_000, 0, 5), 0);
    // Within a file, and by a handle from before its copy-up.
    let same = open_rw(ov.at("file")).unwrap();
    let (mut a, mut b) = (0, 20_000);
    let n = copy_file_range(&same, Some(&mut a), &same, Some(&mut b), 100).unwrap();
    assert_eq!(n, 100);
    assert_eq!(pread(&from, 20_000, 100).unwrap(), pattern(100));
}

fn copy_file_range_errors(store: Store) {
    let ov = base(store);
    let (reader, writer) = (
        open_r(ov.at("file")).unwrap(),
        open_rw(ov.at("file")).unwrap(),
    );
    fails!(copy_file_range(&reader, None, &reader, None, 10), BADF);
    let append = open(ov.at("file"), OFlags::WRONLY | OFlags::APPEND, 0).unwrap();
    fails!(copy_file_range(&reader, None, &append, None, 10), BADF);
    let dir = open_r(ov.at("dir")).unwrap();
    fails!(copy_file_range(&dir, None, &writer, None, 10), ISDIR);
    let (mut a, mut b) = (0, 5);
    fails!(
        copy_file_range(&writer, Some(&mut a), &writer, Some(&mut b), 10),
        INVAL
    );
}

fn sendfile_and_splice_work(store: Store) {
    let ov = base(store);
    let (from, to) = (
        open_r(ov.at("file")).unwrap(),
        create(ov.at("sent"), 0o644).unwrap(),
    );
    let mut at = 0;
    while rustix::fs::sendfile(&to, &from, Some(&mut at), 10_000).unwrap() > 0 {}
    assert_eq!(read(ov.at("sent")).unwrap(), pattern(10_000));
    let (out, into) = rustix::pipe::pipe().unwrap();
    let flags = rustix::pipe::SpliceFlags::empty();
    let mut at = 100;
    let n = rustix::pipe::splice(&from, Some(&mut at), &into, None, 50, flags).unwrap();
    let to = create(ov.at("spliced"), 0o644).unwrap();
    assert_eq!(
        rustix::pipe::splice(&out, None, &to, None, n, flags).unwrap(),
        n
    );
    assert_eq!(
        read(ov.at("spliced")).unwrap(),
        pattern(10_000)[100..100 + n]
    );
}

fn fsync_works_on_everything(store: Store) {
    let ov = base(store);
    fsync(open_r(ov.at("file")).unwrap()).unwrap();
    let file = open_rw(ov.at("file")).unwrap();
    pwrite(&file, 0, "synced").unwrap();
    fsync(&file).unwrap();
    fdatasync(&file).unwrap();
    fsync(open_r(ov.at("dir")).unwrap()).unwrap();
    fsync(open_r(&ov.root).unwrap()).unwrap();
    rustix::fs::syncfs(&file).unwrap();
    assert_eq!(&read(ov.up("file")).unwrap()[..6], b"synced");
}

fn a_shared_map_sees_writes(store: Store) {
    let ov = base(store);
    let file = open_rw(ov.at("file")).unwrap();
    let map = sys::Map::shared(&file, 8192, false).unwrap();
    assert_eq!(map.read(4000, 200), pattern(10_000)[4000..4200]);
    pwrite(&file, 4090, "through write").unwrap();
    assert_eq!(map.read(4090, 13), b"through write");
    let other = open_rw(ov.at("file")).unwrap();
    pwrite(&other, 0, "another handle").unwrap();
    assert_eq!(map.read(0, 14), b"another handle");
    ftruncate(&file, 5000).unwrap();
    assert_eq!(map.read(5000, 50), [0; 50]);
}

fn a_write_through_a_map_is_seen(store: Store) {
    let mut ov = base(store);
    let file = open_rw(ov.at("file")).unwrap();
    let reader = open_r(ov.at("file")).unwrap();
    let map = sys::Map::shared(&file, 8192, true).unwrap();
    map.write(4090, b"through the map");
    assert_eq!(pread(&reader, 4090, 15).unwrap(), b"through the map");
    assert_eq!(
        read(ov.at("file")).unwrap()[4090..4105],
        *b"through the map"
    );
    map.sync().unwrap();
    assert_eq!(
        read(ov.up("file")).unwrap()[4090..4105],
        *b"through the map"
    );
    assert_eq!(read(ov.low("file")).unwrap(), pattern(10_000));
    map.write(0, b"unsynced");
    drop((map, file, reader));
    ov.remount();
    assert_eq!(read(ov.at("file")).unwrap()[..8], *b"unsynced");
    let reader = open_r(ov.at("file")).unwrap();
    fails!(sys::Map::shared(&reader, 4096, true).map(drop), ACCESS);
}

fn a_private_map_stays_private(store: Store) {
    let ov = base(store);
    let file = open_r(ov.at("file")).unwrap();
    let map = sys::Map::private(&file, 8192).unwrap();
    map.write(10, b"mine alone");
    assert_eq!(read(ov.at("file")).unwrap(), pattern(10_000));
    assert!(!exists(ov.up("file")), "a private map copies nothing up");
}

fn a_map_outlives_its_name(store: Store) {
    let ov = base(store);
    let file = open_rw(ov.at("file")).unwrap();
    let map = sys::Map::shared(&file, 8192, true).unwrap();
    drop(file);
    unlink(ov.at("file")).unwrap();
    map.write(5, b"still");
    map.sync().unwrap();
    assert_eq!(map.read(5, 5), b"still");
    fails!(lstat(ov.at("file")), NOENT);
}

fn a_read_map_from_before_copy_up_stays_valid(store: Store) {
    let ov = base(store);
    let reader = open_r(ov.at("file")).unwrap();
    let map = sys::Map::shared(&reader, 8192, false).unwrap();
    assert_eq!(map.read(0, 100), pattern(100));
    append(ov.at("file"), "grown").unwrap();
    pwrite(&open_rw(ov.at("file")).unwrap(), 4096, "new").unwrap();
    // Overlayfs documents that such a map keeps the old content; a view may show the new one.
    let seen = map.read(4096, 3);
    assert!(seen == b"new" || seen == pattern(10_000)[4096..4099]);
    assert_eq!(map.read(0, 100), pattern(100));
}

fn direct_io_agrees_with_cached(store: Store) {
    let ov = Overlay::new(store, |l| write(l.join("file"), pattern(16_384)).unwrap());
    // Not every store has it; that must be told at the open.
    let file = match open(ov.at("file"), OFlags::RDWR | OFlags::DIRECT, 0) {
        Err(e) => return assert_eq!(e, Errno::INVAL),
        Ok(file) => file,
    };
    let map = sys::Map::shared(&file, 16_384, true).unwrap();
    drop(map);
    let cached = open_rw(ov.at("file")).unwrap();
    pwrite(&cached, 4096, "cached").unwrap();
    // An aligned buffer: a vector of pages' size is not necessarily one, so take the middle.
    let room = vec![0u8; 3 * 4096];
    let skip = room.as_ptr().align_offset(4096);
    let mut room = room;
    let n = rustix::io::pread(&file, &mut room[skip..skip + 4096], 4096).unwrap();
    assert_eq!((n, &room[skip..skip + 6]), (4096, &b"cached"[..]));
    room[skip..skip + 6].copy_from_slice(b"direct");
    assert_eq!(
        rustix::io::pwrite(&file, &room[skip..skip + 4096], 8192).unwrap(),
        4096
    );
    assert_eq!(pread(&cached, 8192, 6).unwrap(), b"direct");
}

fn o_sync_and_o_noatime(store: Store) {
    let ov = base(store);
    let file = open(ov.at("file"), OFlags::RDWR | OFlags::SYNC, 0).unwrap();
    pwrite(&file, 0, "sync").unwrap();
    assert_eq!(&read(ov.up("file")).unwrap()[..4], b"sync");
    let mut file = open(ov.at("file"), OFlags::RDONLY | OFlags::NOATIME, 0).unwrap();
    set_times(ov.at("file"), 1_000_000_000).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(lstat(ov.at("file")).unwrap().st_atime, 1_000_000_000);
    as_user(1000, 1000, &[], || {
        fails!(
            open(ov.at("file"), OFlags::RDONLY | OFlags::NOATIME, 0),
            PERM
        );
    });
}

fn exec_works(store: Store) {
    let mut ov = Overlay::new(store, |l| {
        std::fs::copy("/bin/true", l.join("true")).unwrap();
        std::fs::copy("/bin/false", l.join("false")).unwrap();
        write(l.join("script"), "#!/bin/sh\nexit 7\n").unwrap();
        for name in ["true", "false", "script"] {
            chmod(l.join(name), 0o755).unwrap();
        }
    });
    let run = |path| {
        std::process::Command::new(path)
            .status()
            .map(|s| s.code().unwrap())
    };
    for _ in 0..2 {
        assert_eq!(run(ov.at("true")).unwrap(), 0);
        assert_eq!(run(ov.at("false")).unwrap(), 1);
        // A script that another test's child still holds open for writing is busy for a moment.
        assert_eq!(run(ov.at("script")).unwrap(), 7);
        for name in ["true", "false", "script"] {
            set_times(ov.at(name), 1_000_000_000).unwrap();
        }
        ov.remount();
    }
    chmod(ov.at("true"), 0o644).unwrap();
    fails!(run(ov.at("true")).map_err(errno), ACCESS);
}

fn exec_while_written_is_refused(store: Store) {
    let ov = Overlay::new(store, |l| {
        std::fs::copy("/bin/sleep", l.join("sleep")).unwrap();
        chmod(l.join("sleep"), 0o755).unwrap();
    });
    let writer = open_rw(ov.at("sleep")).unwrap();
    let run = || std::process::Command::new(ov.at("sleep")).arg("60").spawn();
    fails!(run().map_err(errno), TXTBSY);
    drop(writer);
    let mut running = None;
    // A child forked elsewhere in this program may have the writer's copy for a moment.
    poll_until("the program's start", || match run() {
        Ok(child) => {
            running = Some(child);
            true
        }
        Err(e) => {
            assert_eq!(errno(e), Errno::TXTBSY);
            false
        }
    });
    let mut running = running.unwrap();
    fails!(open_rw(ov.at("sleep")), TXTBSY);
    running.kill().unwrap();
    running.wait().unwrap();
    poll_until("the program's end", || open_rw(ov.at("sleep")).is_ok());
}

#[test]
fn a_full_store_gives_enospc_and_leaves_the_rest() {
    let mut ov = Overlay::new(Store::Tmpfs(4 << 20), |l| {
        write(l.join("small"), "small").unwrap();
        write(l.join("big"), pattern(6 << 20)).unwrap();
        mkdir(l.join("dir"), 0o755).unwrap();
        write(l.join("dir/f"), "f").unwrap();
    });
    let before = ov.lower_trees();
    append(ov.at("small"), "!").unwrap();
    // A copy-up that finds no room leaves the file as it was, and nothing half-copied.
    fails!(append(ov.at("big"), "x"), NOSPC);
    fails!(chmod(ov.at("big"), 0o600), NOSPC);
    assert!(!exists(ov.up("big")));
    assert_eq!(perm(ov.at("big")), 0o644);
    assert!(read(ov.at("big")).unwrap() == pattern(6 << 20));
    let file = create(ov.at("fill"), 0o644).unwrap();
    let mut at = 0;
    let error = loop {
        match pwrite(&file, at, vec![1; 1 << 16]) {
            Ok(()) => at += 1 << 16,
            Err(error) => break error,
        }
        assert!(at < 8 << 20);
    };
    assert_eq!(error, Errno::NOSPC);
    assert!(
        at >= 3 << 20,
        "the failed copies took room: only {at} bytes fitted"
    );
    assert_eq!(read(ov.at("small")).unwrap(), b"small!");
    assert_eq!(read(ov.at("dir/f")).unwrap(), b"f");
    assert_eq!(names(&ov.root), ["big", "dir", "fill", "small"]);
    drop(file);
    // Removing makes room.
    unlink(ov.at("fill")).unwrap();
    append(ov.at("dir/f"), "more").unwrap();
    write(ov.at("again"), pattern(1 << 20)).unwrap();
    ov.remount();
    assert_eq!(read(ov.at("dir/f")).unwrap(), b"fmore");
    snapshot::assert_same(&before[0], &ov.lower_trees()[0]);
}
