//! How a shared struct is declared: every field with its offset, checked at compile time.
//!
//! [`layout!`](crate::layout!) makes a `repr(C)` struct that is never instantiated over shared memory: it only
//! fixes names, offsets and sizes. Accesses go through [`crate::view::View`] with `offset_of!`. The fields of
//! all layouts feed [`crate::version::ABI_HASH`], so that two builds that disagree refuse each other.

/// One field of a shared struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Name of the field.
    pub name: &'static str,
    /// Offset from the start of the struct, in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
}

/// A shared struct as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Name of the struct.
    pub name: &'static str,
    /// Size in bytes.
    pub size: usize,
    /// Its fields, in order.
    pub fields: &'static [Field],
}

/// Declares a shared struct with the offset of every field; a wrong offset does not compile.
#[macro_export]
macro_rules! layout {
    ($(#[$meta:meta])* $vis:vis struct $name:ident [$size:literal] {
        $($(#[$fmeta:meta])* $offset:literal : $field:ident : $ty:ty,)*
    }) => {
        $(#[$meta])*
        #[repr(C, align(8))]
        $vis struct $name { $($(#[$fmeta])* pub $field: $ty,)* }

        impl $name {
            /// Names, offsets and sizes of the fields.
            pub const LAYOUT: $crate::layout::Layout = $crate::layout::Layout {
                name: stringify!($name),
                size: $size,
                fields: &[$($crate::layout::Field {
                    name: stringify!($field),
                    offset: $offset,
                    size: core::mem::size_of::<$ty>(),
                },)*],
            };
        }

        const _: () = assert!(core::mem::size_of::<$name>() == $size);
        const _: () = assert!(core::mem::align_of::<$name>() == 8);
        $(const _: () = assert!(core::mem::offset_of!($name, $field) == $offset);)*
    };
}
