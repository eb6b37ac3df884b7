//! The screen: a pure function of the model and the size.
//!
//! ```text
//!   hostkvd 0.1.0  pid 1  up 3h 2m  /run/hostkv/hostkv.sock
//!   L1        [########----------|---]  51.2 %
//!   used      in the last minutes
//!   reads     hit rate, rates
//!   sessions  the busiest first
//!   q quits
//! ```
//!
//! On a small screen the lower parts go first.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Sparkline, Table, Wrap};

use super::model::{Look, Model};
use crate::output::{human_bytes, human_seconds, percent, shown};

const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const GOOD: Style = Style::new().fg(Color::Green);
const WARN: Style = Style::new().fg(Color::Yellow);
const QUIET: Style = Style::new().add_modifier(Modifier::DIM);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
/// Watermark of a daemon that tells none to this user.
const USUAL_WATERMARK: f64 = 0.8;

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, model: &Model) {
    let trouble_rows = u16::from(model.trouble.is_some()) * 2;
    let heights = heights(frame.area().height, [1, trouble_rows, 5, 5, 5]);
    let rows = heights.map(Constraint::Length);
    let [body, foot] =
        Layout::vertical([Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
    let [head, trouble, usage, plots, rates, sessions] = Layout::vertical([
        rows[0],
        rows[1],
        rows[2],
        rows[3],
        rows[4],
        Constraint::Fill(1),
    ])
    .areas(body);
    if let Some(why) = &model.trouble {
        let text = format!("The daemon can't be looked at: {}", shown(why));
        frame.render_widget(
            Paragraph::new(text).style(BAD).wrap(Wrap { trim: true }),
            trouble,
        );
    }
    frame.render_widget(Paragraph::new("q quits").style(QUIET), foot);
    let Some(look) = &model.look else {
        return;
    };
    draw_head(frame, head, look);
    draw_usage(frame, usage, look);
    draw_plots(frame, plots, model);
    draw_rates(frame, rates, model, look);
    draw_sessions(frame, sessions, model, look);
}

/// Rows of each part on a screen of this height: a part that has no room goes, and with it those below.
fn heights<const N: usize>(screen: u16, wanted: [u16; N]) -> [u16; N] {
    let mut left = screen.saturating_sub(1);
    wanted.map(|rows| match left.checked_sub(rows) {
        Some(rest) => {
            left = rest;
            rows
        }
        None => {
            left = 0;
            0
        }
    })
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, look: &Look) {
    let mut spans = vec![Span::styled(
        format!("hostkvd {}", look.info.server_version),
        BOLD,
    )];
    if let Some(daemon) = &look.daemon {
        spans.push(Span::raw(format!(
            "  pid {}  up {}  {}",
            daemon.pid,
            human_seconds(daemon.uptime_seconds),
            shown(&daemon.socket)
        )));
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

fn draw_usage(frame: &mut Frame<'_>, area: Rect, look: &Look) {
    let block = Block::new().borders(Borders::TOP).title("L1");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let figures = &look.figures;
    let watermark = look
        .daemon
        .as_ref()
        .map_or(USUAL_WATERMARK, |daemon| daemon.usage.watermark_ratio);
    let used = figures.used_bytes as f64 / figures.capacity_bytes.max(1) as f64;
    let style = if used >= watermark { WARN } else { GOOD };
    let bar = bar(used, watermark, inner.width.saturating_sub(10).into());
    let lines = vec![
        Line::from(vec![
            Span::styled(bar, style),
            Span::raw(format!(
                " {}",
                percent(figures.used_bytes, figures.capacity_bytes)
            )),
        ]),
        Line::from(format!(
            "used {} of {}   eviction from {:.0} %   objects {}",
            human_bytes(figures.used_bytes),
            human_bytes(figures.capacity_bytes),
            watermark * 100.0,
            figures.object_count
        )),
        Line::from(format!(
            "pinned {}   reserved {}{}",
            human_bytes(figures.pinned_bytes),
            human_bytes(figures.reserved_bytes),
            look.daemon.as_ref().map_or(String::new(), |daemon| {
                let usage = &daemon.usage;
                let gate = if usage.is_pin_gate_shut {
                    "   PIN GATE SHUT"
                } else {
                    ""
                };
                format!(
                    "   quarantined {}   orphaned {}{gate}",
                    human_bytes(usage.quarantined_bytes),
                    human_bytes(usage.orphaned_bytes)
                )
            })
        )),
    ];
    frame.render_widget(Paragraph::new(lines), inner);
}

/// A bar of this width in plain characters, with a mark where eviction starts.
fn bar(used: f64, watermark: f64, width: usize) -> String {
    let inside = width.saturating_sub(2);
    let column = |share: f64| (share.clamp(0.0, 1.0) * inside as f64).round() as usize;
    let (full, mark) = (
        column(used),
        column(watermark).min(inside.saturating_sub(1)),
    );
    let cells = (0..inside).map(|at| match at {
        _ if at == mark => '|',
        _ if at < full => '#',
        _ => '-',
    });
    format!("[{}]", cells.collect::<String>())
}

fn draw_plots(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)])
        .spacing(2)
        .areas(area);
    let most = model.found_history.iter().max().copied().unwrap_or(0);
    let title = format!("keys found a second, up to {most}");
    for (area, title, history, max) in [
        (left, "share in use".to_owned(), &model.used_history, 1000),
        (right, title, &model.found_history, most.max(1)),
    ] {
        let block = Block::new().borders(Borders::TOP).title(title);
        // The newest stands at the right edge.
        let width = usize::from(block.inner(area).width);
        let data: Vec<u64> = history
            .iter()
            .skip(history.len().saturating_sub(width))
            .copied()
            .collect();
        frame.render_widget(
            Sparkline::default()
                .block(block)
                .data(data)
                .max(max)
                .style(GOOD),
            area,
        );
    }
}

fn draw_rates(frame: &mut Frame<'_>, area: Rect, model: &Model, look: &Look) {
    let rates = &model.rates;
    let figures = &look.figures;
    let asked = figures.sm_read_succeed_keys + figures.sm_read_failed_keys;
    let hit_now = rates
        .hit_ratio
        .map_or("-".to_owned(), |ratio| format!("{:.1} %", ratio * 100.0));
    let lines = vec![
        Line::from(format!(
            "hit rate now {hit_now}   since the start {}",
            percent(figures.sm_read_succeed_keys, asked)
        )),
        Line::from(format!(
            "reads    {:>10.1} requests/s  {:>10.1} keys/s",
            rates.read_requests, rates.read_keys
        )),
        Line::from(format!(
            "writes   {:>10.1} requests/s  {:>10.1} keys/s",
            rates.write_requests, rates.write_keys
        )),
        Line::from(format!(
            "evicted  {:>21} {:>11.1} keys/s",
            "", rates.evicted_keys
        )),
    ];
    let block = Block::new().borders(Borders::TOP).title("rates");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn draw_sessions(frame: &mut Frame<'_>, area: Rect, model: &Model, look: &Look) {
    let title = format!("sessions: {}", look.figures.session_count);
    let block = Block::new().borders(Borders::TOP).title(title);
    if look.daemon.is_none() {
        let text = "The daemon shows its sessions to admins only: its own user, root, and whom --admin-uid names.";
        frame.render_widget(
            Paragraph::new(text).block(block).wrap(Wrap { trim: true }),
            area,
        );
        return;
    }
    let rate_of = |id: u64| model.session_rates.get(&id).copied().unwrap_or(0.0);
    let mut sessions: Vec<_> = look.sessions.iter().collect();
    sessions.sort_by(|a, b| {
        let by_rate = rate_of(b.session_id).total_cmp(&rate_of(a.session_id));
        by_rate
            .then(b.pinned_bytes.cmp(&a.pinned_bytes))
            .then(a.session_id.cmp(&b.session_id))
    });
    let rows = sessions.iter().map(|session| {
        let rights = crate::connect::rights(session);
        let row = Row::new([
            session.session_id.to_string(),
            session.pid.to_string(),
            session.uid.to_string(),
            shown(&session.name),
            human_seconds(session.age_seconds),
            session.pin_count.to_string(),
            human_bytes(session.pinned_bytes),
            human_bytes(session.reserved_bytes),
            format!("{:.1}", rate_of(session.session_id)),
            rights,
        ]);
        if session.is_orphaned {
            row.style(BAD)
        } else {
            row
        }
    });
    let widths = [
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(5),
        Constraint::Min(10),
        Constraint::Length(7),
        Constraint::Length(5),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(16),
    ];
    let header = Row::new([
        "SESSION", "PID", "UID", "NAME", "AGE", "PINS", "PINNED", "RESERVED", "FOUND/S", "RIGHTS",
    ])
    .style(BOLD);
    frame.render_widget(Table::new(rows, widths).header(header).block(block), area);
    let room = usize::from(area.height.saturating_sub(2));
    if sessions.len() > room && area.height > 0 {
        let text = format!("{} more ", sessions.len() - room);
        let line = Rect { height: 1, ..area };
        frame.render_widget(
            Paragraph::new(text)
                .style(QUIET)
                .alignment(Alignment::Right),
            line,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::look;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::time::Instant;

    fn drawn(model: &Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model)).unwrap();
        let cells = terminal.backend().buffer().content();
        let rows = cells.chunks(usize::from(width).max(1));
        let text = rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>());
        text.collect::<Vec<String>>().join("\n")
    }

    #[test]
    fn the_bar_shows_use_and_watermark() {
        assert_eq!(bar(0.5, 0.8, 12), "[#####---|-]");
        assert_eq!(bar(1.0, 0.8, 12), "[########|#]");
        assert_eq!(bar(7.0, 1.0, 12), "[#########|]");
        assert_eq!(bar(0.5, 0.8, 0), "[]");
    }

    #[test]
    fn every_size_down_to_nothing_can_be_drawn() {
        let mut model = Model::default();
        for (width, height) in [(0, 0), (1, 1), (20, 5), (80, 24), (400, 100)] {
            drawn(&model, width, height);
        }
        model.saw(look(1, 5, 5), Instant::now());
        model.missed("no daemon at the socket".to_owned());
        for width in [0, 1, 2, 10, 79, 300] {
            for height in [0, 1, 2, 7, 24, 90] {
                drawn(&model, width, height);
            }
        }
        let screen = drawn(&model, 100, 30);
        for part in [
            "hostkvd 0.1.0",
            "can't be looked at",
            "40.0 %",
            "q quits",
            "admins only",
        ] {
            assert!(screen.contains(part), "{part} is not on:\n{screen}");
        }
    }
}
