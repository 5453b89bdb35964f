use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn cell_of() -> impl Strategy<Value = Cell> {
    (0..16_u8).prop_filter_map("no cell", Cell::from_bits)
}

fn written(cells: &Cells) -> Vec<u8> {
    let mut writer = Writer::default();
    cells.write(&mut writer);
    writer.finish()
}

proptest! {
    #[test]
    fn cells_are_what_was_set(sets in prop::collection::vec((0_u32..6_000, cell_of(), 1_u32..50), 1..400)) {
        let mut cells = Cells::default();
        let mut model = BTreeMap::new();
        for (round, (first, cell, length)) in sets.into_iter().enumerate() {
            for index in first..first + length {
                let before = cells.set(MinionIndex(index), cell);
                prop_assert_eq!(Some(before), model.insert(index, cell).or(Some(Cell::NONE)));
            }
            if round % 50 == 49 {
                cells.squeeze();
            }
        }
        model.retain(|_, cell| *cell != Cell::NONE);
        let told: Vec<_> = cells.iter().map(|(index, cell)| (index.0, cell)).collect();
        prop_assert_eq!(&told, &model.clone().into_iter().collect::<Vec<_>>());
        for index in 0..6_100 {
            let expected = model.get(&index).copied().unwrap_or_default();
            prop_assert_eq!(cells.get(MinionIndex(index)), expected);
        }
        let bytes = written(&cells);
        let mut reader = Reader::new(&bytes);
        let read = Cells::read(&mut reader).expect("as written");
        prop_assert!(reader.is_empty());
        prop_assert_eq!(read.iter().map(|(index, cell)| (index.0, cell)).collect::<Vec<_>>(), told);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..3_000)) {
        if let Some(cells) = Cells::read(&mut Reader::new(&bytes)) {
            prop_assert!(cells.bytes() <= 64 * bytes.len() + 64);
        }
    }

    #[test]
    fn the_order_of_hearing_does_not_matter(one in cell_of(), two in cell_of(), three in cell_of()) {
        prop_assert_eq!(one.and(two), two.and(one));
        prop_assert_eq!(one.and(two).and(three), one.and(two.and(three)));
        prop_assert_eq!(one.and(one), one);
    }
}
