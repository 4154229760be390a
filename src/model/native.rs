/// A function that is code of the server or of one of its libraries: what is moved is a name, and the target must have
/// what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NativeFunction {
    /// For people: `function public.f`.
    pub name: String,
    pub language: NativeLanguage,
    /// What follows AS in its definition: literals of library and symbol, or of the built-in function.
    pub body: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NativeLanguage {
    C,
    Internal,
}

impl NativeLanguage {
    /// `None`: a language that is no code of the server's.
    #[must_use]
    pub fn from_sql(name: &str) -> Option<Self> {
        match name.trim_matches('"') {
            "c" | "C" => Some(Self::C),
            "internal" => Some(Self::Internal),
            _ => None,
        }
    }

    #[must_use]
    pub fn as_sql(self) -> &'static str {
        match self {
            Self::C => "c",
            Self::Internal => "internal",
        }
    }
}
