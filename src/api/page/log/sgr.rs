//! The colours and styles that a program chose for its output, as classes of the style sheet. A colour of a larger
//! palette becomes the nearest of the sixteen that every terminal has, each of which is readable on the ground of the
//! log.

/// The sixteen colours of a terminal, as xterm shows them.
const BASIC: [[u8; 3]; 16] = [
    [0, 0, 0],
    [205, 0, 0],
    [0, 205, 0],
    [205, 205, 0],
    [0, 0, 238],
    [205, 0, 205],
    [0, 205, 205],
    [229, 229, 229],
    [127, 127, 127],
    [255, 0, 0],
    [0, 255, 0],
    [255, 255, 0],
    [92, 92, 255],
    [255, 0, 255],
    [0, 255, 255],
    [255, 255, 255],
];
/// The levels of each part of a colour in the cube of the palette of 256.
const LEVELS: [u8; 6] = [0, 95, 135, 175, 215, 255];

/// The style of a part of a line. Blinking and hidden text is shown as usual text: nothing in a log may hide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Style {
    /// The colour of the text, as a number of the sixteen.
    colour: Option<u8>,
    /// The colour of the ground.
    ground: Option<u8>,
    is_bold: bool,
    is_dim: bool,
    is_italic: bool,
    is_underlined: bool,
    is_struck: bool,
    is_inverse: bool,
}

impl Style {
    /// Applies the parameters of one `ESC [ … m`.
    pub(super) fn apply(&mut self, parameters: &str) {
        let mut parameters = parameters.split(';');
        while let Some(parameter) = parameters.next() {
            // `38:5:208` is one parameter with its parts, and `38;5;208` are three.
            let mut parts = parameter.split(':');
            let code = number(parts.next());
            let parts: Vec<&str> = parts.collect();
            match code {
                38 | 48 => {
                    let colour = match parts.as_slice() {
                        [] => extended(&mut parameters),
                        ["2", _, red, green, blue, ..] | ["2", red, green, blue] => {
                            Some(nearest([channel(Some(red)), channel(Some(green)), channel(Some(blue))]))
                        }
                        ["5", index, ..] => Some(of_palette(channel(Some(index)))),
                        _ => None,
                    };
                    *(if code == 38 { &mut self.colour } else { &mut self.ground }) = colour;
                }
                // The colour of the underline, which is the text's here.
                58 if parts.is_empty() => drop(extended(&mut parameters)),
                4 => self.is_underlined = parts.first() != Some(&"0"),
                code => self.switch(code),
            }
        }
    }

    fn switch(&mut self, code: u16) {
        let basic = |first: u16| u8::try_from(code - first).ok();
        match code {
            0 => *self = Self::default(),
            1 => self.is_bold = true,
            2 => self.is_dim = true,
            3 => self.is_italic = true,
            7 => self.is_inverse = true,
            9 => self.is_struck = true,
            21 => self.is_underlined = true,
            22 => (self.is_bold, self.is_dim) = (false, false),
            23 => self.is_italic = false,
            24 => self.is_underlined = false,
            27 => self.is_inverse = false,
            29 => self.is_struck = false,
            30..=37 => self.colour = basic(30),
            39 => self.colour = None,
            40..=47 => self.ground = basic(40),
            49 => self.ground = None,
            90..=97 => self.colour = basic(90 - 8),
            100..=107 => self.ground = basic(100 - 8),
            _ => {}
        }
    }

    /// The names of its classes, if it differs from usual text. With a ground, the style sheet chooses black or white
    /// text, because a program cannot know whether its own choice is readable here.
    pub(super) fn classes(self) -> Option<String> {
        let mut classes = Vec::new();
        let ground = if self.is_inverse { self.colour } else { self.ground };
        match (ground, self.colour) {
            (Some(ground), _) => classes.push(format!("b{ground}")),
            (None, _) if self.is_inverse => classes.push("v".to_owned()),
            // Black and white are the text's own colour, because the ground is the log's.
            (None, Some(0 | 7 | 15) | None) => {}
            (None, Some(colour)) => classes.push(format!("f{colour}")),
        }
        // Dim text on a coloured ground could become unreadable.
        let is_dim = self.is_dim && ground.is_none() && !self.is_inverse;
        let switches = [
            (self.is_bold, "w"),
            (is_dim, "d"),
            (self.is_italic, "i"),
            (self.is_underlined, "u"),
            (self.is_struck, "s"),
        ];
        classes.extend(switches.iter().filter(|(is_on, _)| *is_on).map(|(_, class)| (*class).to_owned()));
        (!classes.is_empty()).then(|| classes.join(" "))
    }
}

/// A colour in separate parameters, after 38, 48 or 58; `None`: not a colour.
fn extended<'a>(parameters: &mut impl Iterator<Item = &'a str>) -> Option<u8> {
    match number(parameters.next()) {
        5 => Some(of_palette(channel(parameters.next()))),
        2 => {
            let mut next = || channel(parameters.next());
            Some(nearest([next(), next(), next()]))
        }
        _ => None,
    }
}

/// An empty or missing parameter is zero.
fn number(text: Option<&str>) -> u16 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn channel(text: Option<&str>) -> u8 {
    u8::try_from(number(text)).unwrap_or(u8::MAX)
}

/// The nearest basic colour of one of the palette of 256.
fn of_palette(index: u8) -> u8 {
    match index {
        0..=15 => index,
        16..=231 => {
            let place = index - 16;
            nearest([place / 36, place / 6 % 6, place % 6].map(|level| LEVELS[usize::from(level)]))
        }
        232.. => nearest([8 + (index - 232) * 10; 3]),
    }
}

/// The nearest basic colour. Red and blue count by how red both colours are, which is close to what eyes see.
fn nearest(colour: [u8; 3]) -> u8 {
    let distance = |other: [u8; 3]| {
        let [red, green, blue] =
            [0, 1, 2].map(|part: usize| i64::from(colour[part]) - i64::from(other[part]));
        let mean = i64::midpoint(i64::from(colour[0]), i64::from(other[0]));
        (512 + mean) * red * red + 1_024 * green * green + (767 - mean) * blue * blue
    };
    let nearest = (0_u8..).zip(BASIC).min_by_key(|(_, basic)| distance(*basic));
    nearest.map_or(7, |(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(parameters: &str) -> String {
        let mut style = Style::default();
        style.apply(parameters);
        style.classes().unwrap_or_default()
    }

    #[test]
    fn every_colour_notation_maps_to_one_of_sixteen_colours() {
        for (parameters, expected) in [
            ("31", "f1"),
            ("91", "f9"),
            ("41", "b1"),
            ("107", "b15"),
            ("30", ""),
            ("97", ""),
            ("38;5;9", "f9"),
            ("38;5;208", "f3"),
            ("38;5;244", "f8"),
            ("38;5;21", "f4"),
            ("38:5:196", "f9"),
            ("48;5;22", "b0"),
            ("38;2;255;80;80", "f9"),
            ("38:2::0:200:0", "f2"),
            ("38:2:0:200:0", "f2"),
            ("48;2;0;0;200", "b4"),
            ("38;2;999;0;0", "f9"),
            ("38;5", ""),
            ("38", ""),
            ("38;7;31", "f1"),
            ("58;5;1;31", "f1"),
            ("31;39", ""),
            ("41;49", ""),
        ] {
            assert_eq!(classes(parameters), expected, "{parameters}");
        }
    }

    #[test]
    fn styles_are_switched_on_and_off() {
        for (parameters, expected) in [
            ("1;2;3;4;9", "w d i u s"),
            ("1;2;3;4;9;22;23;24;29", ""),
            ("4:3", "u"),
            ("4;4:0", ""),
            ("21", "u"),
            ("7", "v"),
            ("7;31", "b1"),
            ("7;31;42", "b1"),
            ("7;31;27", "f1"),
            ("31;42", "b2"),
            ("2;42", "b2"),
            ("5;8;31", "f1"),
            ("31;", ""),
            ("1;;31", "f1"),
            ("99999999", ""),
        ] {
            assert_eq!(classes(parameters), expected, "{parameters}");
        }
    }
}
