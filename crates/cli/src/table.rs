//! Text in columns.

/// Rows of text, the first of them the heading. Columns whose cells below it are all numbers, or
/// absent, stand at the right.
#[derive(Debug, Default)]
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// A table with this heading.
    pub fn new(heading: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(vec![heading.into_iter().map(Into::into).collect()])
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.0.push(cells.into_iter().map(Into::into).collect());
    }

    /// Whether there is nothing below the heading.
    pub fn is_empty(&self) -> bool {
        self.0.len() < 2
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &[String], i: usize| row.get(i).cloned().unwrap_or_default();
        let layout: Vec<(usize, bool)> = (0..columns)
            .map(|i| {
                let width = self.0.iter().map(|row| cell(row, i).chars().count()).max().unwrap_or(0);
                let number =
                    |text: String| text == "-" || text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
                (width, i > 0 && self.0[1..].iter().all(|row| number(cell(row, i))))
            })
            .collect();
        for row in &self.0 {
            let mut line = String::new();
            for (i, &(width, right)) in layout.iter().enumerate() {
                let text = cell(row, i);
                line += &if right { format!("{text:>width$}  ") } else { format!("{text:<width$}  ") };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_at_the_right_and_words_at_the_left() {
        let mut table = Table::new(["run", "loss", "state"]);
        assert!(table.is_empty());
        table.row(["a-long-name", "1.5", "stopped"]);
        table.row(["b", "-", "running"]);
        table.row(["ü", "12.25", "finished"]);
        assert_eq!(
            table.to_string(),
            "run           loss  state\n\
             a-long-name    1.5  stopped\n\
             b                -  running\n\
             ü            12.25  finished\n"
        );
    }
}
