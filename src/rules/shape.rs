//! The compiled tree that nodes share: names in one piece of memory, children of one parent side by
//! side, and one hash table of them all.
//!
//! Owns: how the tree lies in memory, and the place that stands for each node's own name. May not:
//! know what a rule means.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Zone;

/// One name of the tree.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Node {
    /// Where its name begins; it ends where the next one's begins.
    name: usize,
    parent: u32,
    /// The zone that governs it.
    pub(super) zone: u32,
    /// Its children are `first..first + guarded_below`, then those that are not guarded.
    first: u32,
    guarded_below: u32,
    /// The zone begins here.
    pub(super) own: bool,
    /// `/etc/mtab`: see SEMANTICS section 1.
    pub(super) mtab: bool,
    /// A rule lies here or below (mtab alone does not count).
    pub(super) guarded: bool,
    /// It has children, guarded or not.
    leads_on: bool,
}

impl Node {
    pub(super) fn leads_deeper(&self) -> bool {
        self.guarded_below > 0
    }

    pub(super) fn leads_on(&self) -> bool {
        self.leads_on
    }
}

/// A tree of names and the zones that govern them, for any node of a set.
#[derive(Debug)]
pub(super) struct Shape {
    zones: Box<[Zone]>,
    /// One more than there are names: the last says where the names end.
    nodes: Box<[Node]>,
    names: Box<[u8]>,
    /// Nodes by their parent and name.
    children: HashTable<u32>,
    /// The place whose name is that of the node that looks, and its parent.
    own_name: Option<(u32, u32)>,
    /// Other nodes may use it.
    shareable: bool,
}

impl PartialEq for Shape {
    fn eq(&self, other: &Self) -> bool {
        // `children` follows from the nodes and their names.
        self.shareable == other.shareable
            && self.own_name == other.own_name
            && self.zones == other.zones
            && self.nodes == other.nodes
            && self.names == other.names
    }
}

fn hash(parent: u32, name: &[u8]) -> u64 {
    xxh3_64_with_seed(name, u64::from(parent))
}

impl Shape {
    pub(super) fn is_shareable(&self) -> bool {
        self.shareable
    }

    pub(super) fn zones(&self) -> &[Zone] {
        &self.zones
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.zones)
            + size_of_val(&*self.nodes)
            + self.names.len()
            + self.children.allocation_size()
    }

    #[inline]
    pub(super) fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    #[inline]
    fn name(&self, at: u32) -> &[u8] {
        &self.names[self.nodes[at as usize].name..self.nodes[at as usize + 1].name]
    }

    /// The child of that name, for a node called `own`.
    #[inline]
    pub(super) fn child(&self, at: u32, name: &[u8], own: &[u8]) -> Option<u32> {
        if !self.node(at).leads_on {
            return None;
        }
        let is_it = |child: &u32| self.node(*child).parent == at && self.name(*child) == name;
        match self.children.find(hash(at, name), is_it) {
            Some(child) => Some(*child),
            None => match self.own_name {
                Some((parent, child)) if parent == at && name == own => Some(child),
                _ => None,
            },
        }
    }

    pub(super) fn rule_names<'a>(
        &'a self,
        at: u32,
        own: &'a [u8],
    ) -> impl Iterator<Item = &'a [u8]> {
        let node = self.node(at);
        (node.first..node.first + node.guarded_below).map(move |child| self.shown(child, own))
    }

    fn shown<'a>(&'a self, at: u32, own: &'a [u8]) -> &'a [u8] {
        match self.own_name {
            Some((_, place)) if place == at => own,
            _ => self.name(at),
        }
    }

    pub(super) fn path(&self, at: u32, own: &[u8]) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = at;
        while at != 0 {
            names.push(self.shown(at, own));
            at = self.node(at).parent;
        }
        names.reverse();
        names.join(&b'/')
    }
}

/// A name while the tree is being built: nodes in the order in which they came.
struct Draft {
    name: std::ops::Range<usize>,
    parent: u32,
    /// `None` where no zone begins.
    zone: Option<u32>,
    mtab: bool,
}

/// A tree that is being built.
pub(super) struct Builder {
    zones: Vec<Zone>,
    drafts: Vec<Draft>,
    names: Vec<u8>,
    children: HashTable<u32>,
    own_name: Option<(u32, u32)>,
}

impl Builder {
    /// The root alone, which `zone` governs. `expected`: about how many names will come.
    pub(super) fn new(zone: Zone, expected: usize) -> Builder {
        Builder {
            zones: vec![zone],
            drafts: vec![Draft {
                name: 0..0,
                parent: 0,
                zone: Some(0),
                mtab: false,
            }],
            names: Vec::new(),
            children: HashTable::with_capacity(expected),
            own_name: None,
        }
    }

    /// The place of a path below `at`, made where it is not there.
    pub(super) fn place(&mut self, at: u32, path: &[u8]) -> u32 {
        path.split(|b| *b == b'/')
            .filter(|name| !name.is_empty())
            .fold(at, |at, name| self.child(at, name))
    }

    fn child(&mut self, parent: u32, name: &[u8]) -> u32 {
        let (drafts, names) = (&self.drafts, &self.names);
        let is_it = |child: &u32| {
            let draft = &drafts[*child as usize];
            draft.parent == parent && names[draft.name.clone()] == *name
        };
        let hash = hash(parent, name);
        if let Some(child) = self.children.find(hash, is_it) {
            return *child;
        }
        let child = self.push(parent, name);
        let (drafts, names) = (&self.drafts, &self.names);
        self.children.insert_unique(hash, child, |at| {
            let draft = &drafts[*at as usize];
            self::hash(draft.parent, &names[draft.name.clone()])
        });
        child
    }

    fn push(&mut self, parent: u32, name: &[u8]) -> u32 {
        let begin = self.names.len();
        self.names.extend_from_slice(name);
        self.drafts.push(Draft {
            name: begin..self.names.len(),
            parent,
            zone: None,
            mtab: false,
        });
        self.drafts.len() as u32 - 1
    }

    /// The child of `parent` whose name is that of the node that looks. There is one such place.
    pub(super) fn own_name(&mut self, parent: u32) -> u32 {
        match self.own_name {
            Some((_, place)) => place,
            None => {
                let place = self.push(parent, b"");
                self.own_name = Some((parent, place));
                place
            }
        }
    }

    /// A zone begins at a place; of several the last one counts.
    pub(super) fn begin(&mut self, at: u32, zone: Zone) {
        self.drafts[at as usize].zone = Some(self.zones.len() as u32);
        self.zones.push(Zone { at, ..zone });
    }

    /// This place is `/etc/mtab`.
    pub(super) fn mark_mtab(&mut self, at: u32) {
        self.drafts[at as usize].mtab = true;
    }

    /// Hands zones down to the names between rules, marks what leads to a rule, and lays all of
    /// it out.
    pub(super) fn finish(mut self, shareable: bool) -> Shape {
        let count = self.drafts.len();
        // A child always comes after its parent.
        let mut guarded: Vec<bool> = self
            .drafts
            .iter()
            .map(|draft| draft.zone.is_some())
            .collect();
        for at in (1..count).rev() {
            guarded[self.drafts[at].parent as usize] |= guarded[at];
        }
        let mut zones = vec![0; count];
        let mut below = vec![(0u32, 0u32); count];
        for (at, draft) in self.drafts.iter().enumerate() {
            let parent = draft.parent as usize;
            zones[at] = draft.zone.unwrap_or(zones[parent]);
            if at > 0 {
                below[parent].0 += u32::from(guarded[at]);
                below[parent].1 += u32::from(!guarded[at]);
            }
        }
        let mut free = 1;
        let first: Vec<u32> = below
            .iter()
            .map(|(guarded, rest)| {
                let first = free;
                free += guarded + rest;
                first
            })
            .collect();
        // Where each goes: the guarded ones of a parent first.
        let mut next: Vec<(u32, u32)> = first
            .iter()
            .zip(&below)
            .map(|(first, (guarded, _))| (*first, first + guarded))
            .collect();
        let mut moved = vec![0u32; count];
        let mut order = vec![0u32; count];
        for at in 1..count {
            let next = &mut next[self.drafts[at].parent as usize];
            let slot = if guarded[at] {
                &mut next.0
            } else {
                &mut next.1
            };
            moved[at] = *slot;
            order[*slot as usize] = at as u32;
            *slot += 1;
        }
        let mut nodes = Vec::with_capacity(count + 1);
        let mut names = Vec::with_capacity(self.names.len());
        for &at in &order {
            let at = at as usize;
            let draft = &self.drafts[at];
            nodes.push(Node {
                name: names.len(),
                parent: moved[draft.parent as usize],
                zone: zones[at],
                first: first[at],
                guarded_below: below[at].0,
                own: draft.zone.is_some(),
                mtab: draft.mtab,
                guarded: guarded[at],
                leads_on: below[at] != (0, 0),
            });
            names.extend_from_slice(&self.names[draft.name.clone()]);
        }
        nodes.push(Node {
            name: names.len(),
            ..nodes[0]
        });
        for zone in &mut self.zones {
            zone.at = moved[zone.at as usize];
        }
        let own_name = self
            .own_name
            .map(|(parent, place)| (moved[parent as usize], moved[place as usize]));
        let mut shape = Shape {
            zones: self.zones.into(),
            nodes: nodes.into(),
            names: names.into(),
            children: HashTable::new(),
            own_name,
            shareable,
        };
        let of = |at: &u32| hash(shape.node(*at).parent, shape.name(*at));
        let mut children = HashTable::with_capacity(count);
        for at in 1..count as u32 {
            if own_name.is_none_or(|(_, place)| place != at) {
                children.insert_unique(of(&at), at, of);
            }
        }
        shape.children = children;
        shape
    }
}
