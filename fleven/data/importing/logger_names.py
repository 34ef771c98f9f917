"""What loggers call the columns and units, beside the table that the cars know: only an import needs these.

Names are written as `folded_key` leaves them. A stand-in is a reading that serves where the real one is missing (the
speed of GPS, absolute load). Pure; must not import numpy, pandas, torch or flwr.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from fleven.app import columns

_T: Final = columns.TIME_COLUMN


def folded_key(name: str) -> str:
    """Return a name as the alias tables have it, accents taken off: `Vitesse du véhicule` is `vitesseduvehicule`."""
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss"))
    return columns.key(plain.encode("ascii", "ignore").decode())


def _names(target: str, text: str) -> dict[str, str]:
    return dict.fromkeys(text.split(), target)


# English names of loggers and data sets, then Portuguese, Spanish, German, French, Italian.
_LOGGER_NAMES: Final[dict[str, str]] = {
    **_names(
        _T,
        "offset t timeofday timestamputc utctime unixtime unixtimestamp epoch epochtime systemtime logtime recordtime "
        "gpsdatetime datetimeutc timestampms timems timestampus timeus timestampns timens timeutc localtime datetime "
        "dateandtime devicetime gpstime timestamplocal elapsedtimems elapsedms timesinceenginestart "
        "runtimesinceenginestart enginerunningtime enginerunt enginerun engineruntimesincestart timestamps "
        "tempo hora datahora dataehora horadogps horadodispositivo horario "
        "tiempo fechahora fechayhora horagps horadelgps horadeldispositivo horadispositivo marcadetiempo "
        "zeit uhrzeit zeitstempel datumuhrzeit datumzeit gpszeit geratezeit geraetezeit "
        "temps heure horodatage dateheure dateetheure heuregps heuredelappareil heureappareil "
        "ora dataora tijd tijdstip",
    ),
    **_names(
        "vehicle_speed",
        "wheelbasedvehiclespeed "
        "vehiclespeedsensor vss vss1 vehspeed vehspd carspeed obdspeed obdiispeed vehiclespeedobd speedobdii roadspeed "
        "speedovehicle velocidade velocidadedoveiculo velocidadeveiculo velocidadeobd "
        "velocidad velocidaddelvehiculo velocidadvehiculo velocidadobd "
        "geschwindigkeit fahrzeuggeschwindigkeit fahrgeschwindigkeit geschwindigkeitobd "
        "vitesse vitesseduvehicule vitessevehicule vitesseobd velocita velocitaveicolo velocitadelveicolo snelheid",
    ),
    **_names(
        "engine_rpm",
        "rpms engrpm engspeed motorrpm revs enginerevs enginespeedrpm enginerevolutions tacho "
        "rotacao rotacaodomotor rotacoesdomotor rotacoes rpmdomotor rotacaomotor regimedomotor "
        "revoluciones revolucionesdelmotor rpmdelmotor rpmmotor regimendelmotor regimenmotor velocidaddelmotor "
        "drehzahl motordrehzahl motordrehzahlrpm regimemoteur regimedumoteur toursmoteur "
        "girimotore regimemotore toerental motortoerental",
    ),
    **_names(
        "mass_air_flow",
        "airflowratefrommassflowsensor massairflowsensor massairflowmaf mafsensor mafrate airflow airflowrate "
        "intakeairflow mafairflow massairflowratemaf airmass mafgrams "
        "fluxodemassadear vazaomassicadear massadear fluxodear taxadefluxodemassadear vazaodear "
        "flujodemasadeaire flujomasicodeaire caudalmasicodeaire flujodeaire masadeaire flujodeairemasivo "
        "caudaldeaire luftmasse luftmassenstrom luftmassendurchsatz luftmassenfluss luftmassenmesser "
        "debitmassiquedair debitdair debitdairmassique portatamassicaaria portataaria",
    ),
    **_names(
        "calculated_load_value",
        "enginepercentloadatcurrentspeed percentloadatcurrentspeed "
        "calcload calcengineload engineloadcalculated loadcalculated engload loadvalue calculatedloadvaluepid04 "
        "cargadomotor cargacalculadadomotor cargacalculada valordacargadomotor cargamotor "
        "cargadelmotor cargacalculadadelmotor cargadelmotorcalculada "
        "motorlast berechnetemotorlast berechneterlastwert lastwert berechnetelast motorlastberechnet "
        "chargemoteur chargedumoteur chargecalculee chargemoteurcalculee chargecalculeedumoteur "
        "caricomotore caricodelmotore caricocalcolato motorbelasting",
    ),
    **_names(
        "absolute_throttle_pos",
        "tps tp throttlepositionsensor absthrottlepos absolutethrottle throttlepositionabsolute throttleangle "
        "absolutethrottlepos throttleposition1 throttlebody throttleopening "
        "posicaodoacelerador posicaodaborboleta posicaoabsolutadoacelerador posicaoabsolutadaborboleta "
        "posiciondelacelerador posiciondelamariposa posicionabsolutadelacelerador "
        "drosselklappe drosselklappenstellung drosselklappenposition absolutedrosselklappenstellung "
        "drosselklappenwinkel positionpapillon positiondupapillon positiondupapillondesgaz "
        "positionabsoluedupapillon posizionefarfalla posizionevalvolafarfalla",
    ),
    **_names(
        "fuel_rate",
        "fuelconsumption fuelflowrate enginefuelflow consumodecombustivel taxadecombustivel "
        "kraftstoffverbrauch kraftstoffdurchsatz debitcarburant",
    ),
    **_names(
        "intake_manifold_pressure",
        "manifoldpressure manifoldabsolutepressure intakemanifoldabsolutepressure manifoldabspressure mapsensor "
        "intakemanifoldabspressure imap pressaodocoletor pressaodocoletordeadmissao "
        "pressaoabsolutadocoletordeadmissao presiondelcolector presiondelcolectordeadmision "
        "presionabsolutadelcolectordeadmision saugrohrdruck saugrohrabsolutdruck "
        "pressiondadmission pressioncollecteurdadmission pressionabsoluecollecteur pressionecollettore",
    ),
    **_names(
        "barometric_pressure",
        "baro baropressure atmosphericpressure ambientpressure barometricpressurefromvehicle pressaobarometrica "
        "presionbarometrica luftdruck umgebungsdruck pressionbarometrique pressionatmospherique",
    ),
    **_names(
        "engine_coolant_temp",
        "clt ect coolanttemperature coolant watertemp watertemperature enginecoolant "
        "temperaturadoliquidodearrefecimento temperaturadoliquidodearrefecimentodomotor temperaturadaagua "
        "temperaturadelrefrigerante temperaturadelliquidorefrigerante temperaturadelrefrigerantedelmotor "
        "kuhlmitteltemperatur kuehlmitteltemperatur kuhlwassertemperatur "
        "temperatureduliquidederefroidissement temperaturedeau temperaturaliquidoraffreddamento",
    ),
    **_names(
        "intake_air_temp",
        "iat mat intakeairtemppid0f inletairtemp intakeairtempsensor temperaturadoardeadmissao "
        "temperaturadelairedeadmision ansauglufttemperatur temperaturedairdadmission "
        "temperaturedelairdadmission temperaturaariaaspirata",
    ),
    **_names(
        "ambient_air_temp",
        "ambienttemp ambienttemperature outsidetemp outsidetemperature temperaturaambiente aussentemperatur "
        "umgebungstemperatur temperatureexterieure temperatureambiante",
    ),
    **_names("fuel_level", "fuellevelinput niveldecombustivel niveldecombustible tankfullstand niveaudecarburant"),
    **_names("timing_advance", "ignitiontiming ignitionadvance sparkadvance timing avancodeignicao zundwinkel"),
}

_STAND_IN_NAMES: Final[dict[str, str]] = {
    **_names(
        "vehicle_speed",
        "gpsspeed speedgps gpsvelocity groundspeed velocidadegps velocidadedogps velocidadgps velocidaddelgps "
        "gpsgeschwindigkeit geschwindigkeitgps vitessegps velocitagps vehiclespeedgps",
    ),
    **_names("calculated_load_value", "absload absoluteengineload absoluteloadvalue engineloadabsolute loadabsolute"),
    **_names(
        "absolute_throttle_pos",
        "absolutethrottlepositionb absolutethrottleposb throttleposb absolutethrottlepositionc "
        "relativethrottleposition relthrottlepos relativethrottlepos relativethrottle",
    ),
    # A counter that says less than a clock of its own: whole seconds, or the time since the journey's start.
    **_names(_T, "secl interval triptime tripduration triptimesincejourneystart journeytime utc laptime"),
}
# The cars' own table holds absolute load as a name of calculated load, since some data sets have nothing else.
STAND_INS: Final = frozenset({*_STAND_IN_NAMES, "absoluteload"})

NAMES: Final[dict[str, str]] = {**_STAND_IN_NAMES, **_LOGGER_NAMES, **columns.ALIASES}

# What is in brackets behind a name, or after it, and is not a unit: who measured it, by which standard.
_QUALIFIER: Final = re.compile(
    r"sae|obd|obd2|obdii|obd-ii|obd ii|ecu|ecm|pcm|can|canbus|can bus|gps|j1979|j1939|eobd|wwh-obd|iso|calc|calculated|"
    r"sensor|actual|raw|manifold|vehicle|engine|bank ?\d|b\d|b\ds\d|s\d|#?\d|mode ?\d+|(?:pid )?(?:0x)?[0-9a-f]{2,4}h?|"
    r"dma|main|primary|generic|standard|std|mod",
    re.IGNORECASE,
)
_BRACKETS: Final = re.compile(r"\s*(?:\((?P<round>[^()]*)\)|\[(?P<square>[^\[\]]*)\])\s*$")
# Units written at a name's end without brackets: `speed_kmh`, `time ms`, `coolant_temp_c`.
_UNIT_ENDINGS: Final = {
    **dict.fromkeys(("kmh", "kph", "km/h", "kmph"), "km/h"),
    **dict.fromkeys(("mph",), "mph"),
    **dict.fromkeys(("mps", "m/s"), "m/s"),
    **dict.fromkeys(("ms", "millis", "msec"), "ms"),
    **dict.fromkeys(("us", "micros", "usec"), "us"),
    **dict.fromkeys(("ns", "nanos"), "ns"),
    **dict.fromkeys(("s", "sec", "secs", "seconds"), "s"),
    **dict.fromkeys(("pct", "percent", "%"), "%"),
    **dict.fromkeys(("gs", "g/s", "gps", "gsec"), "g/s"),
    **dict.fromkeys(("degc", "c", "celsius"), "degC"),
    **dict.fromkeys(("degf", "f", "fahrenheit"), "degF"),
    **dict.fromkeys(("kpa",), "kPa"),
    **dict.fromkeys(("psi",), "psi"),
    **dict.fromkeys(("lph", "l/h"), "L/h"),
    **dict.fromkeys(("kw",), "kW"),
    **dict.fromkeys(("rpm",), "rpm"),
}
# Names that say no more than how a speed is measured, as apps with a GPS of their own write them.
_SPEED_UNITS: Final = ("mph", "kph", "kmh", "km/h")
# Units of what FLEVEn does not read, and words that stand where a unit would: they tell a row of units from names.
_OTHER_UNITS: Final = frozenset(
    _names(
        "",
        "v mv volt volts a ma amp amps ohm ohms nm lb-ft lbft ft-lb ftlb lbs lb kg g mg gees m km mi mile miles ft "
        "feet cm mm in deg/s deg/sec °/s dps rad rad/s hz khz bool boolean on/off flag bit bits raw hex int enum "
        "text string count counts ratio lambda λ afr mpg l/100km km/l kml l gal gallons ml cc mg/h mg/str "
        "mg/stroke mg/cyl mm3 usec n/a none - -- unit units unixtime utc hh:mm:ss hh:mm:ss.sss hh:mm:ss.fff hh:mm "
        "date time/s degree degrees ° °ca deg.ca degbtdc °btdc btdc m/s2 m/s^2 m/s² g's sats n cyc rev revs step "
        "steps w wh kwh ah",
    )
)
_KNOWN_UNITS: Final = frozenset(unit for units in columns.UNITS.values() for unit in units)
# Words in the place of a clock's unit that say how it is written, not what it counts.
_CLOCK_FORM: Final = re.compile(r"[hmsdyft:.,/\- ]*:[hmsdyfz:.,/\- ]*|unix ?_?time|unix|utc|gmt|local|epoch|date|time")


def normal_unit(unit: str) -> str:
    """Return a unit without accidents of keyboards: masculine ordinal for degree, Greek mu for micro, spaces inside."""
    return unit.replace("º", "°").replace("˚", "°").replace("μ", "µ").replace(" ", "").replace("\u00a0", "")


def is_unit(cell: str) -> bool:
    """Whether a cell is nothing but a unit, as in a row of units."""
    plain = cell.strip().strip("[]()").strip().lower()
    return bool(plain) and (plain in _OTHER_UNITS or normal_unit(plain) in _KNOWN_UNITS | _OTHER_UNITS)


def clock_unit(unit: str) -> str:
    """Return a clock's unit, an empty text where the words only say how the time is written (`hh:mm:ss`, `UTC`)."""
    return "" if _CLOCK_FORM.fullmatch(unit.strip().lower()) else unit


def parts(header: str) -> tuple[str, str, bool]:
    """Split a header into (name, unit, whether GPS measured it).

    Brackets that hold no unit but who measured (`(SAE)`, `(OBD)`, `[PID 0D]`) are taken off, unless the name with them
    is known. RaceCapture writes `"Speed"|"km/h"|0.0|160.0|10`. A unit may also end the name (`speed_kmh`).
    """
    text = header.strip().strip('"').strip()
    piped = [part.strip(' "') for part in text.split("|")]
    if len(piped) >= 2 and piped[0]:
        return piped[0], piped[1], "gps" in piped[0].lower()
    text = re.sub(r"\s*\*\s*\w+$", "", text) or text  # TrackAddict: `Vehicle Speed (km/h) *OBD`
    if text.lower() in _SPEED_UNITS:
        return "GPS speed", text, True
    unit = ""
    while folded_key(text) not in NAMES and (found := _BRACKETS.search(text)):
        inside = (found["round"] if found["round"] is not None else found["square"]).strip()
        if inside and not _QUALIFIER.fullmatch(inside):
            if unit or not _may_be_unit(inside):
                break
            unit = inside
        rest = text[: found.start()].strip()
        if not rest:
            break
        if inside.lower() == "gps" and "gps" not in rest.lower():
            rest = f"GPS {rest}"
        text = rest
    if not unit and folded_key(text) not in NAMES:
        name, _, ending = re.sub(r"[ _.\-]+([^ _.\-]+)$", "\0\\1", text).partition("\0")
        if ending.lower() in _UNIT_ENDINGS and folded_key(name) in NAMES:
            return name, _UNIT_ENDINGS[ending.lower()], "gps" in name.lower()
    return text, unit, "gps" in text.lower()


def _may_be_unit(text: str) -> bool:
    """Whether brackets hold a unit, be it one that nobody knows: short, and no sentence."""
    return len(text) <= 24 and text.count(" ") <= 2
