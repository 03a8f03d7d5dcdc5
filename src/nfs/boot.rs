//! What a node is told when it boots: kernel command lines, dnsmasq and PXELINUX.

use std::net::IpAddr;

use super::{HEADER, NodeRoot};
use crate::tables::{NodeBoot, Problem};

/// Where xCAT puts an image's kernel, below the TFTP directory.
const KERNELS: &str = "xcat/osimage";
/// NFSv3 over TCP is what every initramfs can, and locks are then the node's own.
const NFS_OPTIONS: &str = "v3,tcp,nolock";

/// Whose words the command line has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Initrd {
    /// Debian's: `root=/dev/nfs nfsroot=…`, as the kernel's own.
    InitramfsTools,
    /// `root=nfs:…`.
    Dracut,
}

impl Initrd {
    /// The one that a distribution has.
    pub fn of_os(os: &str) -> Initrd {
        let debian = ["debian", "ubuntu"];
        match debian.iter().any(|name| os.starts_with(name)) {
            true => Initrd::InitramfsTools,
            false => Initrd::Dracut,
        }
    }
}

/// The kernel's command line.
///
/// # Errors
/// A problem of the tables, where the node has no server, or its path can't be written there.
pub fn command_line(root: &NodeRoot, initrd: Option<Initrd>) -> Result<String, Box<Problem>> {
    let boot = &root.boot;
    let initrd = initrd.unwrap_or_else(|| Initrd::of_os(&boot.os));
    let server = server_of(boot, initrd)?;
    let path = root.path.to_str().filter(|path| {
        let fits = |b: u8| b.is_ascii_graphic() && !b"\"',:\\".contains(&b);
        path.bytes().all(fits)
    });
    let path = path.ok_or_else(|| {
        let message = format!("{} can't stand on a command line", root.path.display());
        let help =
            "a root without blanks, quotes, commas and colons can (root in the configuration)";
        Box::new(Problem::error(boot.at.clone(), message, help))
    })?;
    let options = match boot.nfs_options.as_str() {
        "" => NFS_OPTIONS,
        options => options,
    };
    let mut line = match initrd {
        Initrd::InitramfsTools => {
            let ip = match &boot.interface {
                Some(interface) => format!(":::::{interface}:dhcp"),
                None => "dhcp".into(),
            };
            format!("root=/dev/nfs nfsroot={server}:{path},{options} rw ip={ip}")
        }
        Initrd::Dracut => {
            let server = match server.parse::<IpAddr>() {
                Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
                _ => server,
            };
            let ip = match &boot.interface {
                Some(interface) => format!("{interface}:dhcp"),
                None => "dhcp".into(),
            };
            format!("root=nfs:{server}:{path}:{options} rw ip={ip}")
        }
    };
    if !boot.append.is_empty() {
        line.push(' ');
        line.push_str(&boot.append);
    }
    Ok(line)
}

/// The server, as that initramfs takes it: initramfs-tools mounts by klibc's nfsmount, which knows
/// addresses of IPv4 alone; dracut asks a name server.
fn server_of(boot: &NodeBoot, initrd: Initrd) -> Result<String, Box<Problem>> {
    let node = &boot.node;
    let Some(server) = &boot.server else {
        let message = format!("node {node} has no server to mount its root from");
        let help = "give noderes an nfsserver or xcatmaster for it, or site a master";
        return Err(Box::new(Problem::error(boot.at.clone(), message, help)));
    };
    let name = &server.name;
    if initrd == Initrd::Dracut {
        return Ok(name.clone());
    }
    let v4 = server.addresses.iter().find(|ip| ip.is_ipv4());
    v4.map(ToString::to_string).ok_or_else(|| {
        let at = server.at.as_ref().unwrap_or(&boot.at);
        let message = format!("{name} has no IPv4 address, and initramfs-tools knows no other");
        let help = "give hosts an ip for it, or name the server by its address";
        Box::new(Problem::error(at.clone(), message, help))
    })
}

/// dnsmasq's lines: the node's address, its root and its boot loader.
///
/// # Errors
/// A problem of the tables, where the node has no hardware address or no server.
pub fn dnsmasq(root: &NodeRoot) -> Result<String, Box<Problem>> {
    let boot = &root.boot;
    let node = &boot.node;
    let Some(mac) = &boot.mac else {
        let message = format!("node {node} has no hardware address");
        let help = "give mac a row for it: dnsmasq knows a node by that";
        return Err(Box::new(Problem::error(boot.at.clone(), message, help)));
    };
    // Its errors are those of the command line: both name the server and the path.
    command_line(root, None)?;
    let server = server_of(boot, Initrd::of_os(&boot.os))?;
    let tag = format!("statelite-{node}");
    let mut host = format!("dhcp-host={mac},set:{tag}");
    for ip in &root.clients {
        match ip {
            IpAddr::V4(ip) => host.push_str(&format!(",{ip}")),
            IpAddr::V6(ip) => host.push_str(&format!(",[{ip}]")),
        }
    }
    let path = root.path.display();
    let mut text =
        format!("{host},{node}\ndhcp-option=tag:{tag},option:root-path,\"{server}:{path}\"\n");
    if let Some(tftp) = &boot.tftpserver {
        text.push_str(&format!("dhcp-boot=tag:{tag},pxelinux.0,,{tftp}\n"));
    }
    Ok(text)
}

/// One node's PXELINUX file: its name, and what is in it.
///
/// # Errors
/// As [`command_line`], and where the node has neither a hardware address nor an IPv4 address.
pub fn pxelinux(root: &NodeRoot, initrd: Option<Initrd>) -> Result<(String, String), Box<Problem>> {
    let boot = &root.boot;
    let line = command_line(root, initrd)?;
    let v4 = root.clients.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(format!("{:08X}", u32::from(*ip))),
        IpAddr::V6(_) => None,
    });
    let mac = boot.mac.as_ref();
    let name = mac
        .map(|mac| format!("01-{}", mac.replace(':', "-")))
        .or(v4);
    let name = name.ok_or_else(|| {
        let message = format!("PXELINUX has no file name for node {}", boot.node);
        let help = "give mac a row for it, or hosts an IPv4 address";
        Box::new(Problem::error(boot.at.clone(), message, help))
    })?;
    let image = &boot.image;
    let text = format!(
        "{HEADER}# {}\nDEFAULT statelite\nPROMPT 0\nLABEL statelite\n  KERNEL {KERNELS}/{image}/kernel\n  \
         INITRD {KERNELS}/{image}/initrd-statelite.gz\n  APPEND {line}\n  IPAPPEND 2\n",
        boot.node
    );
    Ok((format!("pxelinux.cfg/{name}"), text))
}

#[cfg(test)]
mod tests {
    use super::super::Roots;
    use super::super::testing::site;
    use super::*;
    use crate::tables::ServerName;

    fn roots() -> Roots {
        site(
            "#node,ip,otherinterfaces\ncn1,10.0.1.1,ib:fd00::1\ncn2,10.0.1.2,\ncn4,fd00::4,\nnfs1,10.0.1.250,\n",
            "/r",
        )
    }

    #[test]
    fn words_for_both_kinds_of_initramfs() {
        let roots = roots();
        let line = |n: usize, initrd| command_line(&roots.nodes[n], initrd).unwrap();
        let debian = Some(Initrd::InitramfsTools);
        assert_eq!(
            line(0, debian),
            "root=/dev/nfs nfsroot=10.0.1.250:/r/cn1,v3,tcp,nolock rw ip=dhcp quiet"
        );
        assert_eq!(
            line(0, None),
            "root=nfs:nfs1:/r/cn1:v3,tcp,nolock rw ip=dhcp quiet"
        );
        assert_eq!(
            line(1, debian),
            "root=/dev/nfs nfsroot=10.0.1.250:/r/cn2,v3,tcp,nolock rw ip=:::::eth0:dhcp quiet"
        );
        assert_eq!(
            line(1, None),
            "root=nfs:nfs1:/r/cn2:v3,tcp,nolock rw ip=eth0:dhcp quiet"
        );
        assert_eq!(line(2, None), line(2, debian), "cn4 runs Debian");
        let mut root = roots.nodes[0].clone();
        let v6: IpAddr = "fd00::9".parse().unwrap();
        root.boot.server = Some(ServerName {
            name: v6.to_string(),
            addresses: vec![v6],
            at: None,
        });
        root.boot.nfs_options.clear();
        let line = command_line(&root, None).unwrap();
        assert!(
            line.starts_with("root=nfs:[fd00::9]:/r/cn1:v3,tcp,nolock rw"),
            "{line}"
        );
        let told = command_line(&root, debian).unwrap_err().to_string();
        assert!(
            told.starts_with("nodelist.csv:2:1: error: fd00::9 has no IPv4 address"),
            "{told}"
        );
        root.boot.server = None;
        let told = command_line(&root, None).unwrap_err().to_string();
        assert!(
            told.starts_with("nodelist.csv:2:1: error: node cn1 has no server"),
            "{told}"
        );
        for path in ["/a b/cn1", "/a,b/cn1", "/a:b", "/a\"b", "/é"] {
            let mut root = roots.nodes[0].clone();
            root.path = path.into();
            let told = command_line(&root, None).unwrap_err().to_string();
            assert!(told.contains("can't stand on a command line"), "{told}");
        }
    }

    #[test]
    fn initramfs_tools_is_told_an_address() {
        let root = |hosts: &str, n: usize| site(hosts, "/r").nodes[n].clone();
        let debian = Some(Initrd::InitramfsTools);
        let nowhere = root("#node,ip\ncn1,10.0.1.1\n", 0);
        let told = command_line(&nowhere, debian).unwrap_err().to_string();
        assert!(
            told.starts_with("noderes.csv:2:9: error: nfs1 has no IPv4 address"),
            "{told}"
        );
        let line = command_line(&nowhere, Some(Initrd::Dracut)).unwrap();
        assert!(line.starts_with("root=nfs:nfs1:/r/cn1:"), "{line}");
        let both = "#node,ip,hostnames\nfiler,fd00::9,nfs1\nfiler,10.0.1.9,nfs1\ncn4,10.0.1.4,\n";
        let line = command_line(&root(both, 0), None).unwrap();
        assert!(
            line.starts_with("root=/dev/nfs nfsroot=10.0.1.9:/r/cn4,"),
            "{line}"
        );
    }

    #[test]
    fn dnsmasq_and_pxelinux() {
        let roots = roots();
        assert_eq!(
            dnsmasq(&roots.nodes[0]).unwrap(),
            "dhcp-host=aa:bb:cc:00:11:22,set:statelite-cn1,10.0.1.1,[fd00::1],cn1\n\
             dhcp-option=tag:statelite-cn1,option:root-path,\"nfs1:/r/cn1\"\n\
             dhcp-boot=tag:statelite-cn1,pxelinux.0,,tftp1\n"
        );
        let told = dnsmasq(&roots.nodes[1]).unwrap_err().to_string();
        assert!(
            told.starts_with("nodelist.csv:3:1: error: node cn2 has no hardware address"),
            "{told}"
        );
        let (name, text) = pxelinux(&roots.nodes[0], None).unwrap();
        assert_eq!(name, "pxelinux.cfg/01-aa-bb-cc-00-11-22");
        assert!(
            text.contains("\n  KERNEL xcat/osimage/mine/kernel\n"),
            "{text}"
        );
        assert!(text.contains("\n  APPEND root=nfs:nfs1:/r/cn1:v3,tcp,nolock rw ip=dhcp quiet\n"));
        assert_eq!(
            pxelinux(&roots.nodes[1], None).unwrap().0,
            "pxelinux.cfg/0A000102"
        );
        assert!(pxelinux(&roots.nodes[2], None).is_err());
    }
}
