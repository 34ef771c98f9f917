"""The layouts of loggers' files as generators: each writes a drive as one logger does.

`LAYOUTS` maps a logger's name to a function (drive, choices) -> `Written`. What it returns is what an import must give
back, or refuse: `drives` with the readings as the file holds them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

DAY = 86_400


@dataclass(frozen=True)
class Drive:
    """Readings of one drive: seconds from 0 [rows], and the other columns by canonical name [rows]."""

    time: NDArray[np.float64]
    columns: dict[str, NDArray[np.float64]]
    start: float = 1_772_704_800.0  # 2026-03-05 10:00:00 UTC

    def part(self, rows: slice) -> Drive:
        time = self.time[rows]
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Drive(time - time[0], columns, self.start + float(time[0]))


@dataclass(frozen=True)
class Written:
    """A file and the drives in it. `tolerance` is what the layout's rounding costs; `time_tolerance` of its clock [s].

    `lost` is how many cells may be missing.
    """

    data: bytes
    drives: list[Drive]
    names: tuple[str, ...]
    time_tolerance: float = 0.006
    tolerance: dict[str, float] = field(default_factory=dict)
    lost: int = 0


def make_drive(seed: int, rows: int, step: float) -> Drive:
    """Return a drive in which speed goes up and down as a car's does, sometimes standing."""
    chance = np.random.default_rng(seed)
    time = np.round(np.arange(rows) * step, 3)
    goal, speed, speeds = float(chance.uniform(20, 110)), float(chance.uniform(0, 60)), []
    for _ in range(rows):
        if chance.random() < min(step / 15, 0.5):
            goal = float(chance.choice([0.0, chance.uniform(20, 130)]))
        most = 4.0 * step * float(chance.uniform(0.3, 1.0))
        speed = max(0.0, speed + float(np.clip(goal - speed, -2 * most, most)))
        speeds.append(speed)
    values = np.round(np.array(speeds), 1)
    rpm = np.round(820 + values * 21 + chance.normal(0, 8, rows))
    air = np.round(2.6 + values * 0.17 + chance.uniform(0, 0.6, rows), 2)
    load = np.round(18.4 + values * 0.4 + chance.uniform(0, 9, rows), 1)
    return Drive(
        time,
        {
            "vehicle_speed": values,
            "engine_rpm": rpm,
            "mass_air_flow": air,
            "calculated_load_value": load,
            "engine_coolant_temp": np.round(70 + np.minimum(np.arange(rows) * 0.05, 20)),
        },
    )


MAIN = ("vehicle_speed", "engine_rpm", "mass_air_flow", "calculated_load_value")
ALL = (*MAIN, "engine_coolant_temp")
Layout = Callable[[Drive, random.Random], Written]
LAYOUTS: dict[str, Layout] = {}


def layout(name: str) -> Callable[[Layout], Layout]:
    """Register a generator under a logger's name."""

    def register(function: Layout) -> Layout:
        LAYOUTS[name] = function
        return function

    return register


def number(value: float, decimals: int, mark: str = ".") -> str:
    return f"{value:.{decimals}f}".replace(".", mark)


def day_time(seconds: float, form: str) -> str:
    """Return a wall time; `form` is strftime's, with %f for milliseconds."""
    moment = datetime.fromtimestamp(round(seconds, 3), tz=UTC)
    return moment.strftime(form.replace("%f", f"{moment.microsecond // 1000:03d}"))


def table(
    drive: Drive,
    header: list[str],
    cells: list[Callable[[int], str]],
    delimiter: str = ",",
    *,
    head: list[str] | None = None,
    below: list[str] | None = None,
    again: list[int] | None = None,
) -> list[str]:
    """Return the lines of a table; `again` are rows before which header and what is `below` it come once more."""
    top = [delimiter.join(header), *(below or [])]
    lines = [*(head or []), *top]
    for row in range(len(drive.time)):
        if again and row in again:
            lines += top
        lines.append(delimiter.join(cell(row) for cell in cells))
    return lines


def column(drive: Drive, name: str, decimals: int, mark: str = ".", factor: float = 1.0, offset: float = 0.0,
           unit: str = "") -> Callable[[int], str]:  # fmt: skip
    values = drive.columns[name]
    return lambda row: number(values[row] * factor + offset, decimals, mark) + unit


def text(lines: list[str], chance: random.Random, encoding: str = "utf-8") -> bytes:
    """Join lines with one of the line endings there are, the last one ended or not."""
    end = chance.choice(["\n", "\r\n"])
    return (end.join(lines) + chance.choice(["", end])).encode(encoding)


def headers_again(drive: Drive, chance: random.Random) -> list[int]:
    return sorted(chance.sample(range(1, len(drive.time)), chance.choice([0, 1, 2])))


@layout("Torque")
def torque(drive: Drive, chance: random.Random) -> Written:
    months = chance.choice(["Mar", "mar.", "mars", "Mär", "MAR"])
    form = f"%d-{months}-%Y %H:%M:%S.%f"
    speed = chance.choice([("km/h", 1.0), ("mph", 1 / 1.609344)])
    header = ["GPS Time", " Device Time", " Longitude", f"Speed (OBD)({speed[0]})", "Engine RPM(rpm)",
              "Mass Air Flow Rate(g/s)", "Engine Load(%)", "Engine Coolant Temperature(°F)"]  # fmt: skip
    cells = [
        lambda row: chance.choice(["-", day_time(drive.start, "%a %b %d %H:%M:%S GMT %Y")]),
        lambda row: day_time(drive.start + drive.time[row], form),
        lambda row: "-",
        column(drive, "vehicle_speed", 4, factor=speed[1]),
        column(drive, "engine_rpm", 0),
        column(drive, "mass_air_flow", 2),
        column(drive, "calculated_load_value", 1),
        column(drive, "engine_coolant_temp", 1, factor=1.8, offset=32),
    ]
    lines = table(drive, header, cells, again=headers_again(drive, chance))
    return Written(text(lines, chance), [drive], ALL, tolerance={"engine_coolant_temp": 0.05, "vehicle_speed": 0.01})


@layout("Torque with other columns after a restart")
def torque_again(drive: Drive, chance: random.Random) -> Written:
    half = len(drive.time) // 2
    first, second = drive.part(slice(0, half)), drive.part(slice(half, None))
    names = {"vehicle_speed": "Speed (OBD)(km/h)", "engine_rpm": "Engine RPM(rpm)",
             "calculated_load_value": "Engine Load(%)", "mass_air_flow": "Mass Air Flow Rate(g/s)"}  # fmt: skip
    lines: list[str] = []
    for part in (first, second):
        order = chance.sample(list(names), 4)
        header = ["GPS Time", " Device Time", *[names[name] for name in order]]
        cells = [
            lambda row, part=part: "-",
            lambda row, part=part: day_time(part.start + part.time[row], "%d-%b-%Y %H:%M:%S.%f"),
            *[column(part, name, 2) for name in order],
        ]
        lines += table(part, header, cells)
    return Written(text(lines, chance), [drive], MAIN)


@layout("RaceChrono")
def racechrono(drive: Drive, chance: random.Random) -> Written:
    head = ["This file is created using RaceChrono Pro v10 ( http://racechrono.com/ ).", "Format,3",
            'Session title,"Test"', "Driver name,", "Created,04/08/2026,13:14", "Note,", ""]  # fmt: skip
    header = ["timestamp", "fragment_id", "elapsed_time", "altitude", "speed", "speed", "rpm", "engine_load", "maf"]
    below = ["unix time,,s,m,m/s,m/s,rpm,%,g/s", ",,,100: gps,100: gps,calc,300: canbus,300: canbus,300: canbus"]
    speed = column(drive, "vehicle_speed", 3, factor=1 / 3.6)
    cells = [
        lambda row: number(drive.start + drive.time[row], 3),
        lambda row: "0",
        lambda row: number(drive.time[row], 3),
        lambda row: "5.4",
        speed,
        speed,
        column(drive, "engine_rpm", 0),
        column(drive, "calculated_load_value", 1),
        column(drive, "mass_air_flow", 2),
    ]
    return Written(
        text(table(drive, header, cells, head=head, below=below), chance),
        [drive],
        MAIN,
        tolerance={"vehicle_speed": 0.01},
    )


@layout("TunerStudio")
def tunerstudio(drive: Drive, chance: random.Random) -> Written:
    head = ['"MS3 Format 0435.14P: MS3 1.3.4"', '"Capture Date: Thu Mar 05 10:00:00 GMT 2026"']
    header = ["Time", "SecL", "RPM", "MAF", "Load", "CLT", "Vehicle Speed"]
    below = ["s\tsec\tRPM\tg/sec\t%\t°F\tmph"]
    cells = [
        lambda row: number(drive.time[row], 3),
        lambda row: str(int(drive.time[row]) % 65536),
        column(drive, "engine_rpm", 0),
        column(drive, "mass_air_flow", 2),
        column(drive, "calculated_load_value", 1),
        column(drive, "engine_coolant_temp", 1, factor=1.8, offset=32),
        column(drive, "vehicle_speed", 2, factor=1 / 1.609344),
    ]
    lines = table(drive, header, cells, "\t", head=head, below=below)
    if chance.random() < 0.5:
        lines.insert(len(lines) // 2, "MARK 001 - Manual - Thu Mar 05 10:00:03 GMT 2026")
    return Written(text(lines, chance), [drive], ALL, tolerance={"vehicle_speed": 0.02, "engine_coolant_temp": 0.05})


@layout("RealDash")
def realdash(drive: Drive, chance: random.Random) -> Written:
    delimiter = chance.choice([",", ";"])
    over = chance.random() < 0.5
    units = delimiter.join(["ms", "kph", "rpm", "g/s", "%"])
    header = ["Time", "Vehicle Speed", "RPM", "MAF", "Engine Load"]
    cells = [lambda row: number(1000 * drive.time[row], 0), *[column(drive, name, 2) for name in MAIN]]
    lines = table(drive, header, cells, delimiter, head=[units] if over else None, below=None if over else [units])
    return Written(text(lines, chance), [drive], MAIN)


@layout("HP Tuners")
def hp_tuners(drive: Drive, chance: random.Random) -> Written:
    head = ["HP Tuners CSV Log File", "Version: 1.0", "", "[Log Information]", "Creation Time: 3/5/2026 10:00:00 AM",
            "Notes: ", "", "[Channel Information]", "0,13,12,16,4,5"]  # fmt: skip
    header = ["Offset", "Vehicle Speed (SAE)", "Engine RPM (SAE)", "Mass Airflow (SAE)", "Calculated Engine Load (SAE)",
              "Engine Coolant Temp (SAE)"]  # fmt: skip
    cells = [
        lambda row: number(drive.time[row], 3),
        column(drive, "vehicle_speed", 3, factor=1 / 1.609344),
        column(drive, "engine_rpm", 0),
        column(drive, "mass_air_flow", 4, factor=60 / 453.59237),
        column(drive, "calculated_load_value", 1),
        column(drive, "engine_coolant_temp", 1, factor=1.8, offset=32),
    ]
    below = ["s,mph,rpm,lb/min,%,°F", "", "[Channel Data]"]
    return Written(
        text(table(drive, header, cells, head=head, below=below), chance),
        [drive],
        ALL,
        tolerance={"vehicle_speed": 0.01, "mass_air_flow": 0.01, "engine_coolant_temp": 0.05},
    )


@layout("RaceCapture")
def racecapture(drive: Drive, chance: random.Random) -> Written:
    header = ['"Interval"|"ms"|0|0|1', '"Utc"|"ms"|0|0|1', '"Speed"|"mph"|0.0|150.0|10', '"RPM"|"rpm"|0.0|10000.0|10',
              '"MAF"|"g/s"|0.0|300.0|10', '"EngineLoad"|"%"|0.0|100.0|10']  # fmt: skip
    cells = [
        lambda row: number(1000 * drive.time[row] + 402, 0),
        lambda row: "0",
        column(drive, "vehicle_speed", 2, factor=1 / 1.609344),
        *[column(drive, name, 2) for name in MAIN[1:]],
    ]
    return Written(text(table(drive, header, cells), chance), [drive], MAIN, tolerance={"vehicle_speed": 0.02})


@layout("OBD Fusion")
def obd_fusion(drive: Drive, chance: random.Random) -> Written:
    header = ["Time (sec)", "Vehicle speed (km/h)", "Engine RPM (RPM)", "Mass air flow rate (g/s)",
              "Calculated load value (%)", "Engine coolant temperature (°C)"]  # fmt: skip
    head = ["# StartTime = 03/05/2026 10:00:00.0000 AM"] if chance.random() < 0.5 else None
    cells = [lambda row: number(drive.time[row], 4), *[column(drive, name, 2) for name in ALL]]
    return Written(text(table(drive, header, cells, head=head), chance), [drive], ALL)


@layout("python-OBD script")
def python_obd(drive: Drive, chance: random.Random) -> Written:
    header = ["ABSOLUTE_LOAD", "COOLANT_TEMP", "ENGINE_LOAD", "MAF", "RPM", "RUN_TIME", "SPEED", "timestamp"]
    percent, flow = chance.choice([("", ""), (" percent", " gps"), (" percent", " grams_per_second")])
    pace, turn = chance.choice([("", ""), (" kilometer_per_hour", " revolutions_per_minute"), (" km / hour", " rpm")])
    factor, decimals = chance.choice([(1.0, 3), (1e3, 0), (1e6, 0)])
    cells = [
        lambda row: "20.0",
        column(drive, "engine_coolant_temp", 0),
        column(drive, "calculated_load_value", 1, unit=percent),
        column(drive, "mass_air_flow", 2, unit=flow),
        column(drive, "engine_rpm", 0, unit=turn),
        lambda row: str(100 + int(drive.time[row])),
        column(drive, "vehicle_speed", 1, unit=pace),
        lambda row: number((drive.start + drive.time[row]) * factor, decimals),
    ]
    return Written(text(table(drive, header, cells), chance), [drive], ALL)


@layout("one reading in each line")
def lines_of_readings(drive: Drive, chance: random.Random) -> Written:
    named = {"vehicle_speed": ("Vehicle speed", "km/h"), "engine_rpm": ("Engine RPM", "rpm"),
             "calculated_load_value": ("Calculated engine load value", "%"),
             "mass_air_flow": ("MAF air flow rate", "g/sec")}  # fmt: skip
    lines = ['"SECONDS";"PID";"VALUE";"UNITS";']
    gap = float(drive.time[1]) / 8
    for row, time in enumerate(drive.time):
        for place, (name, (label, unit)) in enumerate(named.items()):
            value = column(drive, name, 2)(row)
            lines.append(f'"{39367.06 + time + place * gap:.6f}";"{label}";"{value}";"{unit}";')
        if chance.random() < 0.3:
            lines.append(f'"{39367.06 + time + 5 * gap:.6f}";"Fuel economizer";"1";"";')
    return Written(text(lines, chance), [drive], MAIN)


@layout("VBOX")
def vbox(drive: Drive, chance: random.Random) -> Written:
    head = ["File created on 05/03/2026 at 10:00:00", "", "[header]", "satellites", "time", "velocity kmh", ""]
    head += ["[column names]"]
    header = ["sats", "time", "lat", "velocity", "Engine_Speed", "MAF", "Engine_Load"]
    cells = [
        lambda row: "008",
        lambda row: day_time(drive.start + drive.time[row], "%H%M%S.%f"),
        lambda row: "+03119.09973",
        column(drive, "vehicle_speed", 3),
        column(drive, "engine_rpm", 1),
        column(drive, "mass_air_flow", 2),
        column(drive, "calculated_load_value", 1),
    ]
    return Written(text(table(drive, header, cells, " ", head=head, below=["", "[data]"]), chance), [drive], MAIN)


@layout("parts of the time in columns of their own")
def parts_of_the_time(drive: Drive, chance: random.Random) -> Written:
    dated = chance.choice([True, False])
    header = [*(["Year", "Month", "Day"] if dated else []), "Hour", "Minute", "Second", "Speed", "RPM", "MAF", "Load"]
    forms = [*(["%Y", "%m", "%d"] if dated else []), "%H", "%M", "%S.%f"]
    cells = [lambda row, form=form: day_time(drive.start + drive.time[row], form) for form in forms]
    return Written(
        text(table(drive, header, [*cells, *[column(drive, name, 2) for name in MAIN]]), chance), [drive], MAIN
    )


@layout("the speed of GPS before that of the car")
def gps_first(drive: Drive, chance: random.Random) -> Written:
    other, own, factor = chance.choice(
        [
            ("Speed (m/s) *gps", "Speed (km/h) *obd", 1.0),
            ("Speed (MPH)", "Vehicle Speed (mph) *OBD", 1 / 1.609344),
            ("SPEED_KPH", "WHEEL_SPEED_KPH", 1.0),
            ("Speed_gps_kmh", "speed_can_kmh", 1.0),
        ]
    )
    header = ["Time (s)", "Latitude", other, own, "[ECM] Engine RPM (rpm)", "SAE.MAF (g/s)", "0104 Engine Load (%)"]
    cells = [
        lambda row: number(drive.time[row], 3),
        lambda row: "41.4",
        column(drive, "vehicle_speed", 3, factor=0.3),
        column(drive, "vehicle_speed", 4, factor=factor),
        *[column(drive, name, 2) for name in MAIN[1:]],
    ]
    return Written(text(table(drive, header, cells), chance), [drive], MAIN, tolerance={"vehicle_speed": 0.01})


@layout("carOBD")
def car_obd(drive: Drive, chance: random.Random) -> Written:
    header = ["ENGINE_RUN_TIME ()", "ENGINE_RPM ()", "VEHICLE_SPEED ()", "THROTTLE ()", "ENGINE_LOAD ()"]
    cells = [
        lambda row: f"{int(drive.time[row])}.000000",
        lambda row: " " + number(drive.columns["engine_rpm"][row], 0),
        lambda row: " " + number(drive.columns["vehicle_speed"][row], 1),
        lambda row: " 17.6",
        lambda row: " " + number(drive.columns["calculated_load_value"][row], 1) + ",",
    ]
    names = ("vehicle_speed", "engine_rpm", "calculated_load_value")
    return Written(text(table(drive, header, cells), chance), [drive], names, time_tolerance=1.01)


@layout("one value in each row")
def one_value_a_row(drive: Drive, chance: random.Random) -> Written:
    header = ["Time (sec)", "Vehicle Speed (km/h)", "Engine RPM (rpm)", "MAF (g/s)", "Engine Load (%)"]
    turns = chance.sample(MAIN, 4)
    cells = [lambda row: number(drive.time[row], 3)]
    held = {name: np.full(len(drive.time), np.nan) for name in MAIN}
    for name in MAIN:
        own = turns.index(name)
        cells.append(lambda row, name=name, own=own: number(drive.columns[name][row], 2) if row % 4 == own else "")
        for row in range(len(drive.time)):
            last = row - (row - own) % 4
            held[name][row] = drive.columns[name][last] if last >= 0 else np.nan
    # A value that comes every 16 s is not held: nobody knows what the car did in between.
    lost = 4 * len(drive.time) if 4 * drive.time[1] > 5.0 else 0
    return Written(text(table(drive, header, cells), chance), [replace(drive, columns=held)], MAIN, lost=lost)


@layout("KIT data set")
def kit(drive: Drive, chance: random.Random) -> Written:
    header = ["Time", "Engine Coolant Temperature [°C]", "Engine RPM [RPM]", "Vehicle Speed Sensor [km/h]",
              "Air Flow Rate from Mass Flow Sensor [g/s]"]  # fmt: skip
    begin = chance.choice([7 * 3600 + 1440, DAY - 5])
    cells = [
        lambda row: day_time((begin + drive.time[row]) % DAY, "%H:%M:%S.%f"),
        column(drive, "engine_coolant_temp", 0),
        column(drive, "engine_rpm", 0),
        column(drive, "vehicle_speed", 1),
        column(drive, "mass_air_flow", 2),
    ]
    names = ("vehicle_speed", "engine_rpm", "mass_air_flow", "engine_coolant_temp")
    return Written(text(table(drive, header, cells), chance, chance.choice(["utf-8", "latin-1"])), [drive], names)


LANGUAGES = {
    "Portuguese": ["Data", "Hora", "Velocidade do veículo (km/h)", "Rotação do motor (rpm)",
                   "Fluxo de massa de ar (g/s)", "Carga do motor (%)", "Temperatura do líquido de arrefecimento (°C)"],
    "Spanish": ["Fecha", "Hora", "Velocidad del vehículo (km/h)", "Revoluciones del motor (rpm)",
                "Flujo de masa de aire (g/s)", "Carga del motor (%)", "Temperatura del refrigerante (°C)"],
    "German": ["Datum", "Uhrzeit", "Fahrzeuggeschwindigkeit (km/h)", "Motordrehzahl (U/min)", "Luftmassenstrom (g/s)",
               "Motorlast (%)", "Kühlmitteltemperatur (°C)"],
    "French": ["Date", "Heure", "Vitesse du véhicule (km/h)", "Régime moteur (tr/min)", "Débit massique d'air (g/s)",
               "Charge moteur (%)", "Température du liquide de refroidissement (°C)"],
}  # fmt: skip


def localised(language: str) -> Layout:
    def write(drive: Drive, chance: random.Random) -> Written:
        date = chance.choice(["%d.%m.%Y", "%d/%m/%Y", "%d.%m.%y", "%d-%m-%Y", "%Y-%m-%d"])
        time = chance.choice(["%H:%M:%S,%f", "%H.%M.%S,%f", "%H:%M:%S:%f", "%H:%M:%S.%f"])
        mark = chance.choice([",", "."])
        cells = [
            lambda row: day_time(drive.start + drive.time[row], date),
            lambda row: day_time(drive.start + drive.time[row], time),
            *[column(drive, name, 2, mark) for name in ALL],
        ]
        delimiter = chance.choice([";", "\t"])
        encoding = chance.choice(["utf-8", "utf-8-sig", "cp1252", "utf-16"])
        return Written(text(table(drive, LANGUAGES[language], cells, delimiter), chance, encoding), [drive], ALL)

    return write


for _language in LANGUAGES:
    LAYOUTS[f"export in {_language}"] = localised(_language)


@layout("AM and PM")
def am_pm(drive: Drive, chance: random.Random) -> Written:
    noon = replace(drive, start=chance.choice([1_772_711_980.0, 1_772_755_180.0]))  # 11:59:40 and 23:59:40
    half = chance.choice([("AM", "PM"), ("a. m.", "p. m."), ("am", "pm"), ("a.\u00a0m.", "p.\u00a0m.")])

    def time(row: int) -> str:
        moment = datetime.fromtimestamp(round(noon.start + noon.time[row], 3), tz=UTC)
        hour = moment.hour % 12 or 12
        millis = moment.microsecond // 1000
        return f"{hour}:{moment:%M:%S}.{millis:03d} {half[moment.hour >= 12]}"

    cells = [
        lambda row: day_time(noon.start + noon.time[row], "%m/%d/%Y"),
        time,
        column(noon, "vehicle_speed", 3, factor=1 / 1.609344),
        column(noon, "engine_rpm", 0),
    ]
    lines = table(noon, ["Date", "Time", "Speed (mph)", "RPM"], cells)
    names = ("vehicle_speed", "engine_rpm")
    return Written(text(lines, chance), [noon], names, tolerance={"vehicle_speed": 0.01})


@layout("spreadsheet days")
def serial_days(drive: Drive, chance: random.Random) -> Written:
    mark = chance.choice([",", "."])
    cells = [
        lambda row: number(46000.4 + drive.time[row] / DAY, 9, mark),
        *[column(drive, name, 2, mark) for name in MAIN],
    ]
    header = ["Time", "Vehicle Speed (km/h)", "Engine RPM (rpm)", "MAF (g/s)", "Engine Load (%)"]
    return Written(text(table(drive, header, cells, ";"), chance), [drive], MAIN)


def board(factor: float, decimals: int) -> Layout:
    """A board that counts since it was switched on, without saying in what."""

    def write(drive: Drive, chance: random.Random) -> Written:
        begin = chance.choice([0.0, 12.5])
        cells = [lambda row: number((begin + drive.time[row]) * factor, decimals), *[column(drive, n, 2) for n in MAIN]]
        header = ["Time", "Speed", "RPM", "MAF", "Load"]
        return Written(text(table(drive, header, cells), chance), [drive], MAIN)

    return write


LAYOUTS["Arduino, milliseconds"] = board(1e3, 0)
LAYOUTS["ESP32, microseconds"] = board(1e6, 0)
LAYOUTS["seconds without a unit"] = board(1.0, 3)


@layout("Pi without a clock")
def pi_without_clock(drive: Drive, chance: random.Random) -> Written:
    half = len(drive.time) // 2
    first, second = drive.part(slice(0, half)), replace(drive.part(slice(half, None)), start=drive.start)
    second = replace(second, start=first.start + chance.choice([0.0, 0.3]))
    lines = ["timestamp,speed,rpm,maf,load"]
    for part in (first, second):
        cells = [lambda row, part=part: day_time(part.start + part.time[row], "%Y-%m-%d %H:%M:%S.%f")]
        cells += [column(part, name, 2) for name in MAIN]
        lines += table(part, ["timestamp", "speed", "rpm", "maf", "load"], cells)[chance.choice([0, 1]) :]
    return Written(text(lines, chance), [first, second], MAIN)


@layout("clock set back by NTP")
def set_back(drive: Drive, chance: random.Random) -> Written:
    half = len(drive.time) // 2
    back = max(chance.choice([3.0, 30.0, 3600.0]), 3 * float(drive.time[1]))
    first, second = drive.part(slice(0, half)), drive.part(slice(half, None))
    second = replace(second, start=second.start - back)
    lines = []
    for part in (first, second):
        cells = [lambda row, part=part: number(part.start + part.time[row], 3)]
        cells += [column(part, name, 2) for name in MAIN]
        lines += table(part, ["timestamp", "speed", "rpm", "maf", "load"], cells)
    return Written(text(lines, chance), sorted([first, second], key=lambda part: part.start), MAIN)


@layout("rows a little out of order")
def out_of_order(drive: Drive, chance: random.Random) -> Written:
    cells = [lambda row: number(drive.time[row], 3), *[column(drive, name, 2) for name in MAIN]]
    lines = table(drive, ["time", "speed", "rpm", "maf", "load"], cells)
    step = float(drive.time[1])
    if step <= 1.0:
        for row in range(5, len(drive.time) - 2, chance.choice([7, 20, 50])):
            lines[row], lines[row + 1] = lines[row + 1], lines[row]
    return Written(text(lines, chance), [drive], MAIN)


@layout("cloud export, newest first")
def newest_first(drive: Drive, chance: random.Random) -> Written:
    form = chance.choice(["%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%S.%f+00:00", "%Y%m%d%H%M%S.%f"])
    cells = [lambda row: day_time(drive.start + drive.time[row], form), *[column(drive, name, 2) for name in MAIN]]
    first, *rows = table(drive, ["time", "vehicle_speed_kmh", "rpm", "maf_gps", "load_pct"], cells)
    if chance.random() < 0.5:
        rows = rows[::-1]
    return Written(text([first, *rows], chance), [drive], MAIN)


@layout("GPS receiver beside OBD")
def gps_receiver(drive: Drive, chance: random.Random) -> Written:
    begin = 9 * 3600 + 58 * 60
    cells = [
        lambda row: day_time((begin + drive.time[row]) % DAY, "%H%M%S.%f"),
        lambda row: number(drive.columns["vehicle_speed"][row] / 1.852, 1),
        *[column(drive, name, 2) for name in MAIN],
    ]
    header = ["UTC Time", "GPS Speed (knots)", "speed", "rpm", "maf", "load"]
    return Written(text(table(drive, header, cells), chance), [drive], MAIN)


@layout("power cut")
def power_cut(drive: Drive, chance: random.Random) -> Written:
    cells = [lambda row: number(drive.time[row], 3), *[column(drive, name, 2) for name in MAIN]]
    lines = table(drive, ["time_sec", "speed", "rpm", "maf", "load"], cells)
    data = ("\n".join(lines) + "\n").encode()
    cut = data[: len(data) - chance.randint(1, 30)] + chance.choice([b"", b"\0" * 512])
    return Written(cut, [drive], MAIN, lost=9)
