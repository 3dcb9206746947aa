//! Statements over many rows. Handing a statement to the database costs some 50 µs, a row inside one a few; so whatever comes
//! in numbers is written and looked up in runs. The runs have few lengths: each text is prepared once and kept.

use sqlx::{Any, AnyConnection, AssertSqlSafe};

/// Longest run of rows in one statement: some 5,000 parameters of the 32,766 that SQLite takes.
pub(super) const RUN: usize = 256;

/// A query with arguments to come.
pub(super) type Query = sqlx::query::Query<'static, Any, <Any as sqlx::Database>::Arguments>;

/// How a database wants parameters written. SQLite gets them without names: its driver looks each name up by a walk over all
/// names, which is quadratic in the length of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    pub(super) fn of(db: &AnyConnection) -> Self {
        if db.backend_name() == "SQLite" { Self::Sqlite } else { Self::Postgres }
    }

    /// Behind `INSERT` or `UPDATE`: a row that breaks a constraint is left out, and the count of rows tells. Without it SQLite
    /// copies every page that a statement over several rows touches, in case that the last of them fails.
    pub(super) const fn or_ignore(self) -> &'static str {
        match self {
            Self::Sqlite => "OR IGNORE ",
            Self::Postgres => "",
        }
    }

    /// The same at the end of an `INSERT`.
    pub(super) const fn or_nothing(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => "ON CONFLICT DO NOTHING",
        }
    }

    /// Type of bytes.
    pub(super) const fn bytes(self) -> &'static str {
        match self {
            Self::Sqlite => "BLOB",
            Self::Postgres => "BYTEA",
        }
    }

    /// `row` as often as there are rows, with commas between; each `@` in it becomes the next parameter, from the first.
    pub(super) fn rows(self, row: &str, count: usize) -> String {
        let mut text = String::with_capacity(count * (row.len() + 2));
        let mut parameter = 0;
        for index in 0..count {
            text.push_str(if index == 0 { "" } else { ", " });
            for part in row.split_inclusive('@') {
                let Some(plain) = part.strip_suffix('@') else {
                    text.push_str(part);
                    continue;
                };
                parameter += 1;
                text.push_str(plain);
                match self {
                    Self::Sqlite => text.push('?'),
                    Self::Postgres => {
                        text.push('$');
                        text.push_str(&parameter.to_string());
                    }
                }
            }
        }
        text
    }
}

/// So many parameters for [`Dialect::rows`], with commas between.
pub(super) fn places(count: usize) -> String {
    vec!["@"; count].join(", ")
}

/// A statement whose text is put together from literals of this crate and from parameters, never from data.
pub(super) fn query(text: String) -> Query {
    sqlx::query(AssertSqlSafe(text))
}

/// Splits rows into runs whose lengths are powers of two, the longest first.
pub(super) fn runs<T>(rows: &[T]) -> impl Iterator<Item = &[T]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let longest = RUN.min(1 << rest.len().checked_ilog2()?);
        let (run, after) = rest.split_at(longest);
        rest = after;
        Some(run)
    })
}

/// Splits keys to look up into runs, the last filled up with its last key: a key found twice is found once.
pub(super) fn keys<T: Copy>(keys: &[T]) -> impl Iterator<Item = Vec<T>> {
    keys.chunks(RUN).map(|chunk| {
        let mut run = chunk.to_vec();
        if let Some(last) = chunk.last() {
            run.resize(chunk.len().next_power_of_two(), *last);
        }
        run
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_run() {
        for n in 0..300_usize {
            let rows: Vec<usize> = (0..n).collect();
            let found: Vec<&[usize]> = runs(&rows).collect();
            assert_eq!(found.concat(), rows);
            assert!(found.iter().all(|run| run.len().is_power_of_two() && run.len() <= RUN));
            let mut found: Vec<usize> = keys(&rows).flatten().collect();
            found.dedup();
            assert_eq!(found, rows);
        }
    }

    #[test]
    fn parameters() {
        assert_eq!(Dialect::Sqlite.rows("(@, 'x', @)", 2), "(?, 'x', ?), (?, 'x', ?)");
        assert_eq!(Dialect::Postgres.rows("(@, 'x', @)", 2), "($1, 'x', $2), ($3, 'x', $4)");
        assert_eq!(Dialect::Postgres.rows("@", 3), "$1, $2, $3");
    }
}
