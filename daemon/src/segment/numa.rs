//! `--numa`: which nodes' memory the payload takes.
//!
//! `create_payload` calls it on the mapping before the first page is there. The kernel keeps the policy of a shared mapping
//! with the file, so it holds for every page that anybody brings in, whichever thread prefaults it.
//!
//! A 2 MiB page is made around one small page, on that one's node. Interleaving goes by the number of the small page, and
//! the first pages of all blocks would be on one node of two; so the prefault begins each block with the page whose turn
//! it is on the block's node ([`first_page_of`]).

use std::fs::read_to_string;

use nix::errno::Errno;

use super::HUGE_PAGE_BYTES;
use super::error::SegmentError;
use super::mapping::Mapping;
use crate::config::Numa;

/// The kernel's list of nodes that have memory.
const NODES_WITH_MEMORY: &str = "/sys/devices/system/node/has_memory";
/// Words of a mask of nodes.
const MASK_WORDS: usize = (Numa::MAX_NODE as usize + 1) / u64::BITS as usize;

/// Tells the kernel where the pages of `mapping` are to come from; gives the number of nodes that take turns.
pub(super) fn place(mapping: &Mapping, numa: Numa) -> Result<u64, SegmentError> {
    // A kernel without NUMA has no such file, and its one node is 0.
    let list = read_to_string(NODES_WITH_MEMORY).unwrap_or_else(|_| "0".to_owned());
    let nodes = nodes_of(&list);
    let chosen = match numa {
        Numa::Interleave => nodes,
        Numa::Bind(node) if nodes.contains(&node) => vec![node],
        Numa::Bind(node) => {
            return Err(SegmentError::NoSuchNode {
                node,
                nodes: list.trim().to_owned(),
            });
        }
    };
    let node_count = chosen.len().max(1) as u64;
    let mut mask = [0_u64; MASK_WORDS];
    for node in chosen {
        mask[(node / u64::BITS) as usize] |= 1 << (node % u64::BITS);
    }
    let mode = match numa {
        Numa::Interleave => libc::MPOL_INTERLEAVE,
        Numa::Bind(_) => libc::MPOL_BIND,
    };
    // SAFETY: the range is the mapping, whose content a policy does not touch; the mask lives until the call returns. The
    // kernel reads one bit less than it is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            mapping.base().as_ptr(),
            mapping.mapped_bytes(),
            mode,
            mask.as_ptr(),
            u64::from(Numa::MAX_NODE) + 2,
            0,
        )
    };
    Errno::result(result)
        .map(|_| node_count)
        .map_err(|errno| SegmentError::NumaRefused { numa, errno })
}

/// Where in the segment the first page of a block is brought in, so that blocks take turns on `node_count` nodes on which
/// pages of `page_bytes` take turns.
pub(super) fn first_page_of(block: u64, page_bytes: u64, node_count: u64) -> u64 {
    let pages = HUGE_PAGE_BYTES / page_bytes;
    let turn_of_first = block * pages % node_count;
    let skipped = (block % node_count + node_count - turn_of_first) % node_count;
    block * HUGE_PAGE_BYTES + skipped % pages * page_bytes
}

/// The nodes of a list such as `0-3,8`.
fn nodes_of(list: &str) -> Vec<u32> {
    list.trim()
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .flatten()
        .filter(|node| *node <= Numa::MAX_NODE)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_nodes_are_read_as_the_kernel_writes_them() {
        assert_eq!(nodes_of("0\n"), [0]);
        assert_eq!(nodes_of("0-2,5,7-8\n"), [0, 1, 2, 5, 7, 8]);
        assert_eq!(nodes_of(""), [0_u32; 0]);
    }

    #[test]
    fn blocks_begin_with_pages_that_take_turns_on_any_number_of_nodes() {
        for page_bytes in [4096, 65_536] {
            for node_count in 1..=8 {
                let mut per_node = vec![0_u32; node_count as usize];
                for block in 0..8 * 512 {
                    let at = first_page_of(block, page_bytes, node_count);
                    assert_eq!(at / HUGE_PAGE_BYTES, block);
                    assert_eq!(at % page_bytes, 0);
                    per_node[(at / page_bytes % node_count) as usize] += 1;
                }
                let (least, most) = (per_node.iter().min(), per_node.iter().max());
                let (least, most) = (*least.unwrap(), *most.unwrap());
                assert!(most - least <= 1, "{node_count} nodes: {per_node:?}");
            }
        }
    }
}
