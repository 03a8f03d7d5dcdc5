//! A small site for tests.

use super::Roots;
use crate::config::Config;
use crate::tables::Tables;
use crate::tables::testing::Given;

/// cn1 to cn5; cn5 is another server's. `root` is the configuration's, where it is not empty.
pub(super) fn site(hosts: &str, root: &str) -> Roots {
    let given = Given::default()
        .table("nodelist", "#node,groups\ncn1,all\ncn2,all\ncn3,all\ncn4,all\ncn5,all\nsw1,\n")
        .table("litefile", "#image,file,options\n")
        .table("nodetype", "#node,os,provmethod\nall,rhels9.4,mine\ncn4,debian12,\n")
        .table("osimage", "#imagename,provmethod,nfsrootopts\nmine,statelite,\"v3,tcp,nolock\"\n")
        .table("linuximage", "#imagename,rootimgdir,addkcmdline\nmine,/i,quiet\n")
        .table("noderes", "#node,servicenode,nfsserver,tftpserver,installnic\nall,sn1,nfs1,tftp1,\ncn5,sn2,sn2,,\ncn2,,,,eth0\n")
        .table("mac", "#node,mac\ncn1,AA:BB:CC:00:11:22\n")
        .table("hosts", hosts);
    let mut config = Config {
        server: "sn1".into(),
        ..Config::default()
    };
    if !root.is_empty() {
        config.root = root.into();
    }
    let tables = Tables::load(&given);
    Roots::of(&tables, &config, &tables.nodes(), false)
}
