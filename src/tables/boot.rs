//! What a node needs to find its root over the network: addresses, the server, the kernel's words;
//! and which server a node is to be served by.
//!
//! Owns: hosts, mac, noderes and the boot columns of osimage and linuximage. May not: resolve a
//! name over the network, or know a format that a server reads.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;

use serde::Serialize;

use super::nodes::split_list;
use super::{Origin, Problem, Tables, TablesError, hosts, images, location, no_image};
use crate::config::{Config, is_host};

/// Where noderes names a node's server, in the order in which they are looked at.
const SERVERS: [&str; 3] = ["servicenode", "nfsserver", "xcatmaster"];
/// xCAT's way to say "the value of xcatmaster".
const MASTER: &str = "<xcatmaster>";

/// An address of a node, and the row that has it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The row.
    pub at: Origin,
}

/// What a node is told when it boots.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct NodeBoot {
    /// The node.
    pub node: String,
    /// Its image.
    pub image: String,
    /// The image's distribution and release, `rhels9.4`; may be empty.
    pub os: String,
    /// Its addresses: hosts.ip, then those of hosts.otherinterfaces.
    pub addresses: Vec<Address>,
    /// Its hardware address, `00:11:22:aa:bb:cc`, where the mac table has one.
    pub mac: Option<String>,
    /// The host that it mounts its root from.
    pub server: Option<ServerName>,
    /// The host that it loads its kernel from, where that is said.
    pub tftpserver: Option<String>,
    /// The interface that it boots over, where one is named.
    pub interface: Option<String>,
    /// osimage.nfsrootopts; may be empty.
    pub nfs_options: String,
    /// linuximage.addkcmdline; may be empty.
    pub append: String,
    /// Where nodelist has it.
    pub at: Origin,
    /// What is wrong with all that.
    pub problems: Vec<Problem>,
}

/// A server as a node knows it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ServerName {
    /// A name or an address.
    pub name: String,
    /// The address that it is, or those that hosts has for the name; may be empty.
    pub addresses: Vec<IpAddr>,
    /// Where it is named; none where the configuration does.
    pub at: Option<Origin>,
}

/// A node that other servers serve.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Elsewhere {
    /// The node.
    pub node: String,
    /// Whom noderes names.
    pub servers: Vec<String>,
    /// Where.
    pub at: Origin,
}

impl Tables {
    /// What a node is told when it boots.
    ///
    /// # Errors
    /// As [`Tables::node`].
    pub fn boot(&self, node: &str, config: &Config) -> Result<NodeBoot, TablesError> {
        let known = self.known(node)?;
        let (groups, at) = (self.nodes.groups_of(known), self.nodes.at(known));
        let image = images::of_node(&self.book, known, groups, at.clone());
        let image = image.map_err(no_image(node))?;
        let mut look = self.look(known);
        let of_image = |table, column| {
            let row = self.book.first(table, [&image.name], column);
            row.map_or_else(String::new, |row| row.text(column).trim().to_owned())
        };
        let os = match of_image("osimage", "osvers") {
            os if os.is_empty() => look.text("nodetype", "os").unwrap_or_default(),
            os => os,
        };
        let boot = NodeBoot {
            node: known.to_owned(),
            addresses: look.addresses(),
            mac: look.mac(),
            server: look.server(config),
            tftpserver: look.host("tftpserver").map(|(name, _)| name),
            interface: look
                .text("noderes", "installnic")
                .filter(|nic| nic != "mac"),
            nfs_options: of_image("osimage", "nfsrootopts"),
            append: append(&of_image("linuximage", "addkcmdline")),
            image: image.name.clone(),
            os,
            at,
            problems: look.problems,
        };
        Ok(boot)
    }

    /// The first node that has this address.
    pub fn node_of_address(&self, ip: IpAddr) -> Option<String> {
        let owners = self.owners.get_or_init(|| {
            let mut owners = HashMap::new();
            for node in self.nodes.names() {
                for address in self.look(node).addresses() {
                    owners.entry(address.ip).or_insert_with(|| node.to_owned());
                }
            }
            owners
        });
        owners.get(&ip).cloned()
    }

    fn look<'t>(&'t self, node: &'t str) -> Look<'t> {
        Look {
            tables: self,
            node,
            groups: self.nodes.groups_of(node),
            problems: Vec::new(),
        }
    }

    /// `None` where the node is this server's to serve: noderes names nobody, or this server in one
    /// of servicenode, nfsserver and xcatmaster.
    pub fn elsewhere(&self, node: &str, config: &Config) -> Option<Elsewhere> {
        let known = self.nodes.known(node)?;
        let mut look = self.look(known);
        let (mut servers, mut place) = (Vec::new(), None);
        for column in SERVERS {
            if let Some((names, at)) = look.value("noderes", column) {
                let names = split_list(&names);
                servers.extend(names.into_iter().filter(|name| name != MASTER));
                place.get_or_insert(at);
            }
        }
        let own = |name: &String| self.is_this_server(name, config);
        if servers.is_empty() || servers.iter().any(own) {
            return None;
        }
        servers.sort();
        servers.dedup();
        Some(Elsewhere {
            node: known.to_owned(),
            servers,
            at: place.unwrap_or_default(),
        })
    }

    fn is_this_server(&self, name: &str, config: &Config) -> bool {
        if config.server.is_empty() {
            let hosts = self.hosts.get_or_init(location::LocalHosts::of_this_host);
            return hosts.has(name, config, &self.book);
        }
        self.short(name) == self.short(&config.server)
    }

    /// A host's name as it is compared, without site.domain.
    fn short(&self, name: &str) -> String {
        let domain = self.book.first("site", ["domain"], "value");
        let domain = domain.map_or(Cow::Borrowed(""), |row| row.text("value"));
        let name = location::normal(name);
        let end = format!(".{}", location::normal(domain.trim()));
        name.strip_suffix(&end).map_or(name.clone(), str::to_owned)
    }

    /// The address that `host` is, or those that hosts has for that name.
    fn addresses_of(&self, host: &str) -> Vec<IpAddr> {
        if let Ok(ip) = host.parse() {
            return vec![ip];
        }
        let known = self.addresses.get_or_init(|| hosts::addresses(&self.book));
        let found = known.get(&location::normal(host));
        let found = found.or_else(|| known.get(&self.short(host)));
        found.cloned().unwrap_or_default()
    }
}

/// A look at one node's attributes.
struct Look<'t> {
    tables: &'t Tables,
    node: &'t str,
    groups: &'t [String],
    problems: Vec<Problem>,
}

impl Look<'_> {
    /// An attribute and its place; what cannot be evaluated is a problem.
    fn value(&mut self, table: &str, column: &str) -> Option<(String, Origin)> {
        let book = &self.tables.book;
        match book.attribute(self.node, self.groups, table, column) {
            Ok(found) => {
                let found = found?;
                self.problems.extend(found.warning);
                let text = String::from_utf8_lossy(&found.value).trim().to_owned();
                (!text.is_empty()).then(|| (text, found.row.at(column)))
            }
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    fn text(&mut self, table: &str, column: &str) -> Option<String> {
        self.value(table, column).map(|(text, _)| text)
    }

    fn addresses(&mut self) -> Vec<Address> {
        let mut found: Vec<Address> = Vec::new();
        let mut texts = Vec::new();
        if let Some((list, at)) = self.value("hosts", "ip") {
            texts.extend(split_list(&list).into_iter().map(|ip| (ip, at.clone())));
        }
        if let Some((list, at)) = self.value("hosts", "otherinterfaces") {
            for item in split_list(&list) {
                // -ib:10.1.0.1 or eth1:fd00::1: a name, then the address.
                let ip = item.split_once(':').map_or("", |(_, ip)| ip).to_owned();
                // What has no address there is a name for one of another row.
                if !ip.is_empty() {
                    texts.push((ip, at.clone()));
                }
            }
        }
        for (text, at) in texts {
            let parsed = text.parse::<IpAddr>();
            match parsed {
                Ok(ip) if !ip.is_unspecified() && !ip.is_multicast() => {
                    if !found.iter().any(|known| known.ip == ip) {
                        found.push(Address { ip, at });
                    }
                }
                _ => {
                    let message = format!("\"{text}\" is no address of node {}", self.node);
                    let help = "write one such as 10.0.1.7 or fd00::7";
                    self.problems.push(Problem::error(at, message, help));
                }
            }
        }
        if found.is_empty()
            && let Ok(ip) = self.node.parse::<IpAddr>()
        {
            let at = self.tables.nodes.at(self.node);
            found.push(Address { ip, at });
        }
        if found.is_empty() {
            let keys = std::iter::once(self.node).chain(self.groups.iter().map(String::as_str));
            let mut rows = keys.flat_map(|key| self.tables.book.rows_of("hosts", key));
            let at = rows.next().map(|row| row.at("ip"));
            let at = at.unwrap_or_else(|| self.tables.nodes.at(self.node));
            let message = format!("node {} has no address", self.node);
            let help = "give hosts an ip for it or one of its groups";
            self.problems.push(Problem::error(at, message, help));
        }
        found
    }

    /// The first of `00:11:22:33:44:55!name|66:77:…`.
    fn mac(&mut self) -> Option<String> {
        let (text, at) = self.value("mac", "mac")?;
        let first = text.split('|').next().unwrap_or_default();
        let first = first.split('!').next().unwrap_or_default().trim();
        let mac = first.to_ascii_lowercase().replace('-', ":");
        let mut bytes = mac.split(':');
        let is_byte = |byte: &str| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit());
        if mac.split(':').count() == 6 && bytes.all(is_byte) {
            return Some(mac);
        }
        let message = format!("\"{first}\" is no hardware address");
        let help = "write one such as 00:11:22:aa:bb:cc";
        self.problems.push(Problem::error(at, message, help));
        None
    }

    /// A host that noderes names; it becomes a word of a command line or a configuration.
    fn host(&mut self, column: &str) -> Option<(String, Origin)> {
        let (list, at) = self.value("noderes", column)?;
        let name = split_list(&list).into_iter().next()?;
        if name == MASTER {
            return None;
        }
        self.checked(name, at)
    }

    fn checked(&mut self, name: String, at: Origin) -> Option<(String, Origin)> {
        if is_host(&name) {
            return Some((name, at));
        }
        let message = format!("{name:?} is no name or address of a server");
        let help = "write a host's name, or an address";
        self.problems.push(Problem::error(at, message, help));
        None
    }

    /// As the node knows it.
    fn server(&mut self, config: &Config) -> Option<ServerName> {
        let columns = ["nfsserver", "xcatmaster", "servicenode"];
        let mut named = columns.into_iter().find_map(|column| self.host(column));
        if named.is_none() {
            let row = self.tables.book.first("site", ["master"], "value");
            let master = row.map(|row| (row.text("value").trim().to_owned(), row.at("value")));
            match master {
                Some((name, at)) if !name.is_empty() => named = Some(self.checked(name, at)?),
                _ => {}
            }
        }
        let (name, at) = match named {
            Some((name, at)) => (name, Some(at)),
            None if config.server.is_empty() => return None,
            None => (config.server.clone(), None),
        };
        Some(ServerName {
            addresses: self.tables.addresses_of(&name),
            name,
            at,
        })
    }
}

/// What counts for a node without disks: `R::word` is for installed systems.
fn append(text: &str) -> String {
    let words = text.split_whitespace();
    let words: Vec<&str> = words.filter(|word| !word.starts_with("R::")).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::testing::Given;
    use super::*;

    fn tables(hosts: &str, noderes: &str) -> Tables {
        let given = Given::default()
            .table("nodelist", "#node,groups\ncn1,\"rack1,all\"\ncn2,all\n")
            .table("litefile", "#image,file,options\n")
            .table("nodetype", "#node,os,provmethod\nall,rhels9,mine\n")
            .table(
                "osimage",
                "#imagename,provmethod,nfsrootopts\nmine,statelite,\"v3,tcp\"\n",
            )
            .table(
                "linuximage",
                "#imagename,rootimgdir,addkcmdline\nmine,/i,quiet R::x a=b\n",
            )
            .table("site", "#key,value\nmaster,10.0.0.1\ndomain,x.example\n")
            .table(
                "mac",
                "#node,mac\ncn1,AA-BB-CC-00-11-22!cn1|00:00:00:00:00:00\ncn2,aa:bb\n",
            )
            .table("hosts", hosts)
            .table("noderes", noderes);
        Tables::load(&given)
    }

    fn server_of(boot: &NodeBoot) -> Option<&str> {
        boot.server.as_ref().map(|server| &*server.name)
    }

    fn boot(tables: &Tables, node: &str) -> (NodeBoot, Vec<String>) {
        let boot = tables.boot(node, &Config::default()).unwrap();
        let told = boot.problems.iter().map(ToString::to_string).collect();
        (boot, told)
    }

    #[test]
    fn everything_that_a_node_is_told() {
        let tables = tables(
            "#node,ip,otherinterfaces\nrack1,|10.0.1.($1+0)|,\"-ib:10.9.0.1,eth1:fd00::1,alias:\"\n",
            "#node,nfsserver,tftpserver,installnic,xcatmaster\nall,<xcatmaster>,tftp1,eth0,sn1\n",
        );
        let (boot, told) = boot(&tables, "cn1");
        assert!(told.is_empty(), "{told:?}");
        let ips: Vec<String> = boot.addresses.iter().map(|a| a.ip.to_string()).collect();
        assert_eq!(ips, ["10.0.1.1", "10.9.0.1", "fd00::1"]);
        let owner = |ip: &str| tables.node_of_address(ip.parse().unwrap());
        assert_eq!(owner("fd00::1").as_deref(), Some("cn1"));
        assert_eq!(owner("10.0.1.2"), None, "cn2 is not in rack1");
        assert_eq!(boot.addresses[0].at.to_string(), "hosts.csv:2:7");
        assert_eq!(boot.mac.as_deref(), Some("aa:bb:cc:00:11:22"));
        assert_eq!(server_of(&boot), Some("sn1"));
        assert_eq!(boot.tftpserver.as_deref(), Some("tftp1"));
        assert_eq!(boot.interface.as_deref(), Some("eth0"));
        assert_eq!((&*boot.os, &*boot.nfs_options), ("rhels9", "v3,tcp"));
        assert_eq!((&*boot.image, &*boot.append), ("mine", "quiet a=b"));
    }

    #[test]
    fn what_is_missing_is_told_with_its_row() {
        let of = tables("#node,ip\ncn1,10.0.0.256\n", "#node\n");
        let (_, told) = boot(&of, "cn1");
        assert!(
            told[0].starts_with("hosts.csv:2:5: error: \"10.0.0.256\" is no address of node cn1")
        );
        assert!(told[1].starts_with("hosts.csv:2:5: error: node cn1 has no address"));
        let (boot, told) = boot(&of, "cn2");
        assert!(
            told[0].starts_with("nodelist.csv:3:1: error: node cn2 has no address"),
            "{told:?}"
        );
        assert!(told[1].starts_with("mac.csv:3:5: error: \"aa:bb\" is no hardware address"));
        assert_eq!(server_of(&boot), Some("10.0.0.1"), "site.master");
        assert!(of.boot("cn3", &Config::default()).is_err());
    }

    #[test]
    fn a_servers_name_has_the_addresses_of_hosts() {
        let hosts = "#node,ip,hostnames,otherinterfaces\n\
            sn1,fd00::9,\"filer,filer.lan\",\"-ib:10.9.0.9,roce0:10.8.0.9,alias:\"\n\
            sn1,10.0.0.9,,\nrack1,|10.0.1.($1+0)|,|n($1)|,\nbad,10.0.0.256,,\n";
        for (named, expected) in [
            ("10.0.0.5", "10.0.0.5"),
            ("fd00::5", "fd00::5"),
            ("sn1", "fd00::9 10.0.0.9"),
            ("SN1.x.example.", "fd00::9 10.0.0.9"),
            ("filer.lan", "fd00::9"),
            ("sn1-ib", "10.9.0.9"),
            ("sn1-ib.x.example", "10.9.0.9"),
            ("roce0", "10.8.0.9"),
            ("cn1", "10.0.1.1"),
            ("n1", "10.0.1.1"),
            ("n2", ""),
            ("cn1.other", ""),
            ("alias", ""),
            ("bad", ""),
            ("nobody", ""),
        ] {
            let of = tables(hosts, &format!("#node,nfsserver\nall,{named}\n"));
            let (boot, _) = boot(&of, "cn1");
            let server = boot.server.unwrap();
            let ips: Vec<String> = server.addresses.iter().map(ToString::to_string).collect();
            assert_eq!((&*server.name, &*ips.join(" ")), (named, expected));
            assert_eq!(server.at.unwrap().to_string(), "noderes.csv:2:5");
        }
    }

    #[test]
    fn a_server_has_the_nodes_that_name_it() {
        let of = tables(
            "#node,ip\nsn2,10.0.0.2\n",
            "#node,servicenode,nfsserver,xcatmaster\ncn1,\"sn1,sn2\",,sn1-ib\nall,,filer,\n",
        );
        let servers = |node: &str, server: &str| {
            let server = server.to_owned();
            let config = Config {
                server,
                ..Config::default()
            };
            of.elsewhere(node, &config)
                .map(|found| (found.servers.join(" "), found.at.to_string()))
        };
        for own in ["sn1", "SN2", "sn1-ib.x.example", "filer"] {
            assert_eq!(servers("cn1", own), None, "{own}");
        }
        let (names, at) = servers("cn1", "sn3").unwrap();
        assert_eq!((&*names, &*at), ("filer sn1 sn1-ib sn2", "noderes.csv:2:5"));
        assert!(
            servers("cn2", "").is_some(),
            "this machine is not called filer"
        );
        let of = tables(
            "#node\n",
            "#node,servicenode,nfsserver\nall,,<xcatmaster>\n",
        );
        assert!(of.elsewhere("cn1", &Config::default()).is_none());
        let of = tables("#node\n", "#node,xcatmaster\nall,localhost\n");
        assert!(of.elsewhere("cn1", &Config::default()).is_none());
    }
}
