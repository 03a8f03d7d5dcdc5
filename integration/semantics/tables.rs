//! Section 1: what the tables say, as far as a view shows it.

use crate::cluster::{Cluster, dir, eventually, exists, fails, link, put, stat, text};

#[test]
fn columns_are_found_by_name_and_disabled_rows_dropped() {
    let c = Cluster::new(&[]);
    c.table(
        "litefile",
        "#disable,comments,options,added,file,image\n\
         ,,\"tmpfs\",x,\"/etc/a\",\"ALL\"\n\
         \"yes\",,\"tmpfs\",x,\"/etc/b\",\"ALL\"\n\
         \"1\",,\"tmpfs\",x,\"/etc/c\",\"ALL\"\n\
         \"no\",\"a comma, and \"\"quotes\"\"\",\"tmpfs\",x,\"/etc/d\",\"ALL\"\n",
    );
    for name in ["a", "b", "c", "d"] {
        put(c.image("etc").join(name), "");
    }
    let v = c.mount(1);
    v.write("etc/a", "").unwrap();
    fails!(v.write("etc/b", ""), EROFS);
    fails!(v.write("etc/c", ""), EROFS);
    v.write("etc/d", "").unwrap();
}

#[test]
fn a_groups_row_gives_defaults_and_the_nodes_row_wins_attribute_by_attribute() {
    let c = Cluster::new(&[("/etc/a", "persistent")]);
    c.table(
        "statelite",
        "#node,image,statemnt,mntopts\n\"compute\",,\"@/store\",\n\"%2\",,\"@/store2\",\n",
    );
    c.table(
        "nodepos",
        "#node,rack,room\n\"compute\",\"r1\",\"hall\"\n\"%2\",\"r2\",\n",
    );
    c.table(
        "litetree",
        "#priority,image,directory,mntopts\n1,,\"@/trees/$nodepos.room-$nodepos.rack\",\n",
    );
    put(c.path("trees/hall-r1/etc/a"), "rack 1\n");
    put(c.path("trees/hall-r2/etc/a"), "rack 2\n");
    dir(c.path("store2"));
    let (one, two) = (c.mount(1), c.mount(2));
    assert_eq!(one.text("etc/a"), "rack 1\n");
    assert_eq!(two.text("etc/a"), "rack 2\n");
    one.write("etc/a", "1").unwrap();
    two.write("etc/a", "2").unwrap();
    assert_eq!(text(c.store(1, "etc/a")), "1");
    assert_eq!(text(c.path("store2").join(c.node(2)).join("etc/a")), "2");
}

#[test]
fn regular_expressions_are_evaluated_for_each_node() {
    let c = Cluster::new(&[("/etc/a", "tmpfs")]);
    c.table(
        "nodepos",
        "#node,rack,u\n\"compute\",\"/.*n(\\d)$/rack$1/\",\"|.*n(\\d)$|unit($1*2+1)|\"\n",
    );
    c.table(
        "litetree",
        "#priority,image,directory,mntopts\n1,,\"@/$nodepos.rack/$nodepos.u\",\n",
    );
    put(c.path("rack1/unit3/etc/a"), "node 1\n");
    put(c.path("rack2/unit5/etc/a"), "node 2\n");
    assert_eq!(c.mount(1).text("etc/a"), "node 1\n");
    assert_eq!(c.mount(2).text("etc/a"), "node 2\n");
}

#[test]
fn the_image_is_named_or_made_of_os_arch_and_profile() {
    let c = Cluster::new(&[]);
    c.table(
        "nodetype",
        "#node,os,arch,profile,provmethod\n\
         \"compute\",\"el9\",\"x86_64\",\"compute\",\"netboot\"\n\
         \"%2\",,,,\"custom\"\n",
    );
    c.table(
        "osimage",
        "#imagename,groups\n\"el9-x86_64-statelite-compute\",\n\"custom\",\n",
    );
    c.table(
        "linuximage",
        "#imagename,rootimgdir\n\"el9-x86_64-statelite-compute\",\"@/image\"\n\"custom\",\"@/other\"\n",
    );
    put(c.image("which"), "statelite\n");
    put(c.path("other/rootimg/which"), "custom\n");
    assert_eq!(c.mount(1).text("which"), "statelite\n");
    assert_eq!(c.mount(2).text("which"), "custom\n");
}

#[test]
fn an_image_that_is_not_there_is_no_view() {
    let c = Cluster::new(&[]);
    std::fs::remove_dir(c.image("")).unwrap();
    let said = c.mount_fails(1);
    assert!(
        said.contains(c.image("").to_str().unwrap().trim_end_matches('/')),
        "{said}"
    );
    assert!(said.contains("genimage"), "{said}");
}

#[test]
fn of_several_rows_of_one_path_the_most_specific_wins() {
    let c = Cluster::new(&[]);
    let image = crate::cluster::IMAGE;
    // Each path leaves out one more of the four; the order in the table says nothing.
    for (path, rows) in [
        (
            "/etc/name",
            vec![
                ("diskless", "ro"),
                ("", "ro"),
                ("ALL", "ro"),
                (image, "persistent"),
            ],
        ),
        (
            "/etc/all",
            vec![("diskless", "ro"), ("ALL", "persistent"), ("", "ro")],
        ),
        (
            "/etc/blank",
            vec![("diskless", "ro"), ("", "persistent"), ("other", "tmpfs")],
        ),
        (
            "/etc/group",
            vec![("diskless", "persistent"), ("other", "tmpfs")],
        ),
    ] {
        for (of, options) in rows {
            c.rule_of(of, path, options);
        }
        put(c.image(&path[1..]), "image\n");
    }
    let v = c.mount(1);
    for path in ["etc/name", "etc/all", "etc/blank", "etc/group"] {
        v.write(path, path).unwrap();
        assert_eq!(text(c.store(1, path)), path);
    }
}

#[test]
fn litetree_rows_apply_by_image_and_in_order_of_priority() {
    let c = Cluster::new(&[("/etc/hosts", "con")]);
    let mut table = String::from("#priority,image,directory,mntopts\n");
    for (priority, image, name) in [
        (10, "", "d"),
        (3, "ALL", "b"),
        (5, "diskless", "c"),
        (1, "other", "not"),
        (2, crate::cluster::IMAGE, "a"),
    ] {
        table += &format!("\"{priority}\",\"{image}\",\"@/{name}\",\n");
        put(c.path(name).join("etc/hosts"), name);
    }
    c.table("litetree", &table);
    assert_eq!(c.mount(1).text("etc/hosts"), "abcd");
}

#[test]
fn variables_stand_anywhere_in_a_directory() {
    let c = Cluster::new(&[("/etc/hosts", "con"), ("/etc/p", "persistent")]);
    c.table("site", "#key,value\n\"domain\",\"example\"\n");
    c.table("nodepos", "#node,rack\n\"compute\",\"r7\"\n");
    c.table(
        "litetree",
        "#priority,image,directory,mntopts\n\
         1,,\"@/n/$node\",\n\
         2,,\"@/in-${nodepos.rack}_x/$site.domain\",\n\
         3,,\"@/on-#CMD=uname -s#\",\n",
    );
    c.table(
        "statelite",
        "#node,image,statemnt,mntopts\n\"compute\",,\"@/s-$nodepos.rack\",\n",
    );
    c.set("allow_commands", "[\"uname -s\"]");
    put(c.path("n").join(c.node(1)).join("etc/hosts"), "node\n");
    put(c.path("in-r7_x/example/etc/hosts"), "rack\n");
    put(c.path("on-Linux/etc/hosts"), "command\n");
    dir(c.path("s-r7"));
    let v = c.mount(1);
    assert_eq!(v.text("etc/hosts"), "node\nrack\ncommand\n");
    v.write("etc/p", "p").unwrap();
    assert_eq!(text(c.path("s-r7").join(c.node(1)).join("etc/p")), "p");
}

#[test]
fn a_command_that_is_not_allowed_refuses_the_row() {
    let c = Cluster::new(&[("/etc/hosts", "con")]);
    c.table(
        "litetree",
        "#priority,image,directory,mntopts\n1,,\"@/#CMD=touch @/ran#\",\n2,,\"@/tree2\",\n",
    );
    put(c.tree(2, "etc/hosts"), "two\n");
    let said = c.check();
    assert!(said.contains("litetree.csv:2:"), "{said}");
    assert!(said.contains("allow_commands"), "{said}");
    let v = c.mount(1);
    assert_eq!(v.text("etc/hosts"), "two\n");
    assert!(!exists(c.path("ran")));
}

#[test]
fn an_undefined_variable_is_reported_and_its_row_left_out() {
    let c = Cluster::new(&[("/etc/hosts", "con")]);
    c.table(
        "litetree",
        "#priority,image,directory,mntopts\n1,,\"/x/$nodepos.rack\",\n2,,\"@/tree2\",\n",
    );
    put(c.tree(2, "etc/hosts"), "two\n");
    let out = c.run(&["check"]);
    assert!(!out.status.success());
    let said = c.check();
    // The column counts bytes: it is where the variable begins.
    assert!(
        said.contains("litetree.csv:2:8: error: the variable $nodepos.rack"),
        "{said}"
    );
    assert_eq!(c.mount(1).text("etc/hosts"), "two\n");
}

#[test]
fn a_local_hosts_name_means_the_path_itself_and_a_remote_one_remote_root() {
    let c = Cluster::new(&[("/etc/hosts", "con")]);
    c.table(
        "litetree",
        "#priority,image,directory,mntopts\n\
         1,,\"localhost:@/tree1\",\n\
         2,,\"127.0.0.1:@/tree2\",\n\
         3,,\"my-alias:@/tree3\",\n\
         4,,\"filer:/export/tree\",\n",
    );
    c.set("local_hosts", "[\"my-alias\"]");
    let root = format!("{}/<host><path>", c.path("net").display());
    c.set("remote_root", &format!("\"{root}\""));
    put(c.tree(1, "etc/hosts"), "1\n");
    put(c.tree(2, "etc/hosts"), "2\n");
    put(c.tree(3, "etc/hosts"), "3\n");
    let mounted = crate::cluster::Tmpfs::on(&dir(c.path("net/filer/export")));
    put(c.path("net/filer/export/tree/etc/hosts"), "remote\n");
    assert_eq!(c.mount(1).text("etc/hosts"), "1\n2\n3\nremote\n");
    drop(mounted);
}

#[test]
fn the_nodes_name_is_added_to_the_store_and_check_finds_it_twice() {
    let c = Cluster::new(&[("/etc/a", "persistent")]);
    c.table(
        "statelite",
        "#node,image,statemnt,mntopts\n\"compute\",,\"@/store/$node\",\n",
    );
    dir(c.path("store").join(c.node(1)));
    let said = c.check();
    assert!(said.contains("statelite.csv:2:"), "{said}");
    assert!(said.contains("the store ends in the node's name"), "{said}");
    let v = c.mount(1);
    v.write("etc/a", "a").unwrap();
    assert_eq!(text(c.store(1, format!("{}/etc/a", c.node(1)))), "a");
}

#[test]
fn mtab_is_a_symlink_to_the_mounts() {
    // The image has none, has a file, has a symlink of its own.
    for (kind, expected) in [
        ("none", "/proc/mounts"),
        ("file", "/proc/mounts"),
        ("link", "../proc/self/mounts"),
    ] {
        let c = Cluster::new(&[]);
        dir(c.image("etc"));
        match kind {
            "file" => put(c.image("etc/mtab"), "/dev/sda1 / ext4 rw 0 0\n"),
            "link" => link("../proc/self/mounts", c.image("etc/mtab")),
            _ => {}
        }
        let v = c.mount(1);
        let target = std::fs::read_link(v.at("etc/mtab")).unwrap();
        assert_eq!(target.to_str(), Some(expected), "{kind}");
        assert_eq!(v.names("etc"), ["mtab"]);
        fails!(std::fs::remove_file(v.at("etc/mtab")), EROFS);
    }
}

#[test]
fn mtab_in_a_zone_is_the_nodes_to_change() {
    let c = Cluster::new(&[("/etc/", "tmpfs")]);
    put(c.image("etc/mtab"), "old\n");
    let v = c.mount(1);
    assert!(stat(v.at("etc/mtab")).is_symlink());
    std::fs::remove_file(v.at("etc/mtab")).unwrap();
    assert!(!exists(v.at("etc/mtab")));
    assert!(v.names("etc").is_empty());
    v.write("etc/mtab", "mine\n").unwrap();
    v.remount();
    assert_eq!(v.text("etc/mtab"), "mine\n");
    v.reboot();
    assert!(stat(v.at("etc/mtab")).is_symlink());
}

#[test]
fn a_litetree_whose_directory_is_missing_is_empty_until_it_is_there() {
    let c = Cluster::new(&[("/etc/a", "tmpfs")]);
    c.table(
        "litetree",
        "#priority,image,directory,mntopts\n1,,\"@/later\",\n2,,\"@/tree2\",\n",
    );
    put(c.tree(2, "etc/a"), "two\n");
    let v = c.mount(1);
    assert_eq!(v.text("etc/a"), "two\n");
    put(c.path("later/etc/a"), "later\n");
    v.comes_to_say("etc/a", "later\n");
    std::fs::remove_dir_all(c.path("later")).unwrap();
    eventually("it is empty again", || v.text("etc/a") == "two\n");
}
