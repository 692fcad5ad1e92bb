//! Entry points that the server calls without saying which row of a table is meant: one for each row.

/// `numbered!(f as Type, N)` gives `f::<0>` to `f::<N - 1>`, in this order. So that nobody counts rows by hand, the macro
/// lists 256 numbers, and replaces those from `N` on by 0. Such a function should only pass its number on to a function that
/// is never inlined: with bodies of their own they took half a megabyte.
macro_rules! numbered {
    ($f:ident as $type:ty, $count:expr) => {{
        const { assert!($count <= 256, "more rows than there are numbers") };
        numbered!(@all $f as $type, $count; 0 16 32 48 64 80 96 112 128 144 160 176 192 208 224 240).into_iter().flatten().take($count)
    }};
    (@all $f:ident as $type:ty, $count:expr; $($from:literal)+) => { [$(numbered!(@sixteen $f as $type, $count; $from; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),)+] };
    (@sixteen $f:ident as $type:ty, $count:expr; $from:literal; $($n:literal)+) => { [$($f::<{ if $from + $n < $count { $from + $n } else { 0 } }> as $type,)+] };
}
pub(in crate::host) use numbered;

#[cfg(test)]
mod tests {
    extern "C" fn number<const I: usize>() -> usize {
        I
    }

    #[test]
    fn every_function_knows_its_number() {
        let all: Vec<_> = numbered!(number as extern "C" fn() -> usize, 256).map(|f| f()).collect();
        assert_eq!(all, (0..256).collect::<Vec<_>>());
        assert_eq!(numbered!(number as extern "C" fn() -> usize, 3).count(), 3);
    }
}
