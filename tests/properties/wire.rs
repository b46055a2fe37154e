//! The JSON bodies of the socket survive the way over it.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use psi::wire::{Checked, CheckedId, Counts, Folder, HandedOver, Trouble};

use crate::cases;

fn checked() -> impl Strategy<Value = Checked> {
    let id = (
        any::<Option<String>>(),
        any::<Option<(String, String)>>(),
        any::<bool>(),
        any::<bool>(),
        btree_map(any::<String>(), any::<u64>(), 0..3),
    );
    let id = id.prop_map(|(digest, folder, sealed, unresolved, owners)| CheckedId {
        digest,
        folder: folder.map(|(project, path)| Folder { project, path }),
        sealed,
        unresolved,
        owners,
    });
    (
        vec(any::<bool>(), 0..5),
        vec(any::<bool>(), 0..5),
        vec(any::<bool>(), 0..5),
        vec(id, 0..5),
        vec(any::<String>(), 0..3),
        any::<Option<(String, Option<String>)>>(),
    )
        .prop_map(
            |(mappings, variables, resolved, ids, workloads, closed)| Checked {
                closed: closed.map(|(what, next)| Trouble { what, next }),
                mappings,
                variables,
                resolved,
                ids,
                workloads,
            },
        )
}

fn handed_over() -> impl Strategy<Value = HandedOver> {
    let counts = any::<(usize, usize, usize)>().prop_map(|(stored, unchanged, retired)| Counts {
        stored,
        unchanged,
        retired,
    });
    (any::<u64>(), btree_map(any::<String>(), counts, 0..4)).prop_map(|(generation, workloads)| {
        HandedOver {
            generation,
            workloads,
        }
    })
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn answers_arrive_as_they_were_sent(checked in checked(), handed_over in handed_over()) {
        let json = serde_json::to_vec(&checked).unwrap();
        prop_assert_eq!(serde_json::from_slice::<Checked>(&json).unwrap(), checked);
        let json = serde_json::to_vec(&handed_over).unwrap();
        prop_assert_eq!(serde_json::from_slice::<HandedOver>(&json).unwrap(), handed_over);
    }
}
