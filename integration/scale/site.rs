//! A large site's tables and images, made up: rows for images, groups of images, ALL and nothing,
//! nodes in groups whose values are regular expressions, litetree and statelite rows with
//! variables.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use statelite::config::Config;

/// How large, and of how many images.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) rows: usize,
    pub(crate) nodes: usize,
    pub(crate) images: usize,
}

/// Every so many nodes there is one without a store.
pub(crate) const STORELESS: usize = 1000;

pub(crate) fn node(n: usize) -> String {
    format!("cn{n:05}")
}

pub(crate) fn image(n: usize) -> String {
    format!("image{n}")
}

/// Writes tables and images below `root`, and says how they are to be read.
pub(crate) fn write(root: &Path, size: Size) -> Config {
    let tables = root.join("tables");
    fs::create_dir_all(&tables).unwrap();
    let shown = root.to_str().unwrap();
    let put =
        |name: &str, text: String| fs::write(tables.join(format!("{name}.csv")), text).unwrap();
    put("litefile", litefile(size));
    let mut nodelist = String::from("#node,groups,status\n");
    let mut nodetype =
        String::from("#node,os,arch,profile,provmethod\ncompute,sles15,x86_64,compute,\n");
    for n in 0..size.nodes {
        let store = if n % STORELESS == STORELESS - 1 {
            "diskful"
        } else {
            "stored"
        };
        writeln!(
            nodelist,
            "{},\"compute,{store},run{},rack{},all\",booted",
            node(n),
            n % size.images,
            n / 40
        )
        .unwrap();
    }
    let mut osimage = String::from("#imagename,groups,provmethod\n");
    let mut linuximage = String::from("#imagename,rootimgdir\n");
    for n in 0..size.images {
        writeln!(nodetype, "run{n},,,,{}", image(n)).unwrap();
        writeln!(osimage, "{},\"g{},every\",statelite", image(n), n % 3).unwrap();
        writeln!(linuximage, "{},{shown}/images/{}", image(n), image(n)).unwrap();
        fill(&root.join("images").join(image(n)).join("rootimg"));
    }
    put("nodelist", nodelist);
    put("nodetype", nodetype);
    put("osimage", osimage);
    put("linuximage", linuximage);
    put(
        "nodepos",
        "#node,rack,u\ncompute,|cn(\\d+)|r($1/40)|,|\\D+(\\d+)|($1%40+1)|\n".into(),
    );
    put(
        "noderes",
        "#node,nfsserver\ncompute,/\\D+(\\d+)/filer/\nall,filer9\n".into(),
    );
    put(
        "site",
        "#key,value\nmaster,10.0.0.1\ndomain,cluster.example\n".into(),
    );
    put(
        "hosts",
        "#node,ip,hostnames\ncompute,|10.1.($1/250).($1%250)|,\n".into(),
    );
    put("nodegroup", "#groupname,grouptype,members,membergroups,wherevals\nsles,dynamic,,,nodetype.os=~/^sles/\n".into());
    put(
        "litetree",
        format!(
            "#priority,image,directory,mntopts\n1,,{shown}/trees/nodes/$node,\n2,ALL,{shown}/trees/racks/$nodepos.rack,\n\
         3,every,{shown}/trees/$nodetype.os-$nodetype.arch,\n4,image1,$noderes.nfsserver:/trees/$osimage.provmethod,soft\n9,,{shown}/trees/common,\n"
        ),
    );
    put(
        "statelite",
        format!("#node,statemnt,mntopts\nstored,|\\D+(\\d+)|{shown}/state/hall($1%8)|,\n"),
    );
    Config {
        tables,
        tmpfs_dir: root.join("tmpfs"),
        localdisk_dir: Some(root.join("disk")),
        ..Config::default()
    }
}

/// Of three rows of one path for an image only one counts.
fn litefile(size: Size) -> String {
    let mut text = String::from("#image,file,options,comments,disable\n");
    for n in 0..size.rows {
        let column = match n % 20 {
            0..8 => "ALL".to_owned(),
            8..10 => String::new(),
            10..16 => image(n / 20 % size.images),
            16..19 => format!("g{}", n % 3),
            _ => "every".to_owned(),
        };
        let (path, option) = row(n);
        writeln!(text, "\"{column}\",\"{path}\",\"{option}\",,").unwrap();
    }
    text
}

/// Where rows are.
const TOPS: [&str; 6] = [
    "etc",
    "var/lib",
    "srv",
    "usr/share/app",
    "lnk",
    "opt/vendor/v2",
];

/// The path and the option of the n-th row.
pub(crate) fn row(n: usize) -> (String, &'static str) {
    let top = TOPS[n % TOPS.len()];
    let (a, b, c) = (n % 7, n % 101, n % 401);
    let options = [
        "tmpfs",
        "",
        "persistent",
        "ro",
        "link",
        "link,persistent",
        "localdisk",
    ];
    let option = options[n / 6 % options.len()];
    match n % 10 {
        // ALL's, an image's and a group's row for one path.
        0 => (format!("/etc/d{}/shared{}", n / 20 % 7, n / 20), option),
        9 if n % 20 == 19 => (format!("/etc/d{}/shared{}", n / 20 % 7, n / 20), option),
        1..4 => (format!("/{top}/d{a}/d{b}/d{c}/f{n}"), option),
        4 => (format!("/{top}/d{a}/dir{n}/"), option),
        // Below the directory of the row before.
        5 => {
            let before = TOPS[(n - 1) % TOPS.len()];
            (
                format!("/{before}/d{}/dir{}/conf{n}", (n - 1) % 7, n - 1),
                option,
            )
        }
        6 => (format!("/{top}/absent{b}/x/y{c}/z{n}/"), option),
        _ => (format!("/{top}/d{a}/{c}.conf.{n}"), option),
    }
}

/// Directories that rules lie in, a symlink on the way to some, and files.
fn fill(rootimg: &Path) {
    for top in ["etc", "var/lib", "srv", "usr/share/app", "opt/vendor/v2"] {
        for a in 0..7 {
            for b in (0..101).step_by(10) {
                fs::create_dir_all(rootimg.join(format!("{top}/d{a}/d{b}"))).unwrap();
            }
            for c in 0..20 {
                fs::write(rootimg.join(format!("{top}/d{a}/{c}.conf")), "x").unwrap();
            }
        }
    }
    std::os::unix::fs::symlink("opt/vendor", rootimg.join("lnk")).unwrap();
    for a in 0..7 {
        std::os::unix::fs::symlink(format!("v2/d{a}"), rootimg.join(format!("opt/vendor/d{a}")))
            .unwrap();
    }
}
