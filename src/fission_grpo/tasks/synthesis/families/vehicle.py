"""Requests to `VehicleControlAPI`: cruising wants a running engine, the engine wants locked doors and the brake."""

from __future__ import annotations

from random import Random

from fission_grpo.tasks.synthesis.families import vocabulary
from fission_grpo.tasks.synthesis.families.family import (
    Api,
    Draw,
    InitialState,
    RequestGenerator,
    Wordings,
    call,
    one_call,
)
from fission_grpo.tasks.synthesis.families.vehicle_world import DOORS, IGNITION, RUNNING, parked_car

ZIPCODES = {
    "Rivermist": "83214",
    "Stonebrook": "74532",
    "Maplecrest": "56108",
    "Silverpine": "62947",
    "Shadowridge": "71354",
    "Sunset Valley": "83462",
    "Oakendale": "47329",
    "Willowbend": "52013",
    "Crescent Hollow": "69238",
    "Autumnville": "51479",
    "San Francisco": "94016",
}
"""The cities that the official class knows."""

NEIGHBOURING_CITIES = (
    ("Rivermist", "Stonebrook"),
    ("Maplecrest", "Silverpine"),
    ("Shadowridge", "Sunset Valley"),
    ("Oakendale", "Willowbend"),
    ("Crescent Hollow", "Autumnville"),
    ("San Francisco", "Rivermist"),
    ("Silverpine", "Oakendale"),
    ("San Francisco", "Silverpine"),
    ("Stonebrook", "San Francisco"),
)
"""Pairs of cities whose distance the official class knows."""

TIRE_SHOP = "456 Oakwood Avenue, Rivermist, 83214"


def _start(initial: InitialState) -> Draw:
    return one_call("startEngine", ignitionMode="START")


def _cruise(initial: InitialState) -> Draw:
    return one_call(
        "setCruiseControl",
        speed=initial.rng.randint(4, 24) * 5,
        activate=True,
        distanceToNextVehicle=initial.rng.randint(20, 200),
    )


def _fuel(initial: InitialState) -> Draw:
    return one_call("fillFuelTank", fuelAmount=initial.rng.randint(2, 48) / 2)


def _climate(initial: InitialState) -> Draw:
    return one_call(
        "adjustClimateControl",
        temperature=initial.rng.randint(34, 54) / 2,
        unit="celsius",
        fanSpeed=initial.rng.randint(2, 98),
        mode=initial.rng.choice(("auto", "cool", "heat", "defrost")),
    )


def _lights(initial: InitialState) -> Draw:
    initial.state["headLightStatus"] = initial.rng.choice(("on", "off"))
    return one_call("setHeadlights", mode=initial.rng.choice(("on", "off", "auto")))


def _parking(initial: InitialState) -> Draw:
    mode = initial.rng.choice(("engage", "release"))
    initial.state["parkingBrakeStatus"] = "released" if mode == "engage" else "engaged"
    return one_call("activateParkingBrake", mode=mode)


def _lock(initial: InitialState) -> Draw:
    doors = vocabulary.several(initial.rng, DOORS, 1, 3)
    initial.state["doorStatus"] = {door: "unlocked" if door in doors else "locked" for door in DOORS}
    return Draw(slots={"door": doors}, calls=(call("lockDoors", unlock=False, door=doors),))


def _unlock(initial: InitialState) -> Draw:
    doors = vocabulary.several(initial.rng, DOORS, 1, 3)
    return Draw(slots={"door": doors}, calls=(call("lockDoors", unlock=True, door=doors),))


def _pedal(initial: InitialState) -> Draw:
    return one_call("pressBrakePedal", pedalPosition=initial.rng.randint(1, 19) / 20)


def _status(initial: InitialState) -> Draw:
    options = ("fuel", "battery", "doors", "climate", "headlights", "parkingBrake", "brakePedal", "engine")
    return one_call("displayCarStatus", option=initial.take(options))


def _address(rng: Random) -> str:
    return f"{rng.randint(2, 980)} {rng.choice(vocabulary.NOUNS).title()} Road"


def _navigate(initial: InitialState) -> Draw:
    return one_call("set_navigation", destination=_address(initial.rng))


def _tires(initial: InitialState) -> Draw:
    return one_call("check_tire_pressure")


def _tire_shop(initial: InitialState) -> Draw:
    calls = (call("find_nearest_tire_shop"), call("set_navigation", destination=TIRE_SHOP))
    return Draw(slots={}, calls=calls)


def _distance(initial: InitialState) -> Draw:
    start, goal = initial.rng.sample(initial.rng.choice(NEIGHBOURING_CITIES), 2)
    calls = (
        call("get_zipcode_based_on_city", city=start),
        call("get_zipcode_based_on_city", city=goal),
        call("estimate_distance", cityA=ZIPCODES[start], cityB=ZIPCODES[goal]),
    )
    return Draw(slots={"start": start, "goal": goal}, calls=calls)


def _zipcode(initial: InitialState) -> Draw:
    return one_call("get_zipcode_based_on_city", city=initial.take(sorted(ZIPCODES)))


def _feasible(initial: InitialState) -> Draw:
    return one_call("estimate_drive_feasibility_by_mileage", distance=initial.rng.randint(40, 900))


VEHICLE = Api(
    name="VehicleControlAPI",
    initial_state=parked_car,
    generators=(
        RequestGenerator(
            name="start",
            draw=_start,
            setups=(IGNITION,),
            topic="engine",
            weight=3.0,
            wordings=Wordings(
                train=(
                    "start the engine with mode {ignitionMode}",
                    "start the car, ignition mode {ignitionMode}",
                    "turn on the engine with ignition mode {ignitionMode}",
                    "get the engine running, mode {ignitionMode}",
                    "use ignition mode {ignitionMode} to start the car",
                    "bring the engine up with {ignitionMode}",
                ),
                heldout=("turn on the car, ignition mode {ignitionMode}", "start the engine, use mode {ignitionMode}"),
            ),
        ),
        RequestGenerator(
            name="cruise",
            draw=_cruise,
            setups=(RUNNING,),
            topic="engine",
            weight=5.0,
            wordings=Wordings(
                train=(
                    "set cruise control to {speed} with a distance of {distanceToNextVehicle}",
                    "turn on cruise control at speed {speed}, distance {distanceToNextVehicle}",
                    "activate the cruise control: speed {speed}, next car at {distanceToNextVehicle}",
                    "cruise at {speed} and keep a distance of {distanceToNextVehicle} to the next car",
                    "keep {distanceToNextVehicle} to the next car and cruise at speed {speed}",
                    "with distance {distanceToNextVehicle}, activate cruise control at {speed}",
                ),
                heldout=(
                    "activate cruise control at {speed} and keep a distance of {distanceToNextVehicle}",
                    "set the cruise control: speed {speed}, distance to the next car {distanceToNextVehicle}",
                ),
            ),
        ),
        RequestGenerator(
            name="fuel",
            draw=_fuel,
            topic="fuel",
            wordings=Wordings(
                train=(
                    "fill the tank with {fuelAmount} gallons",
                    "add {fuelAmount} gallons of fuel",
                    "put {fuelAmount} gallons into the fuel tank",
                    "fill in {fuelAmount} gallons of fuel",
                    "refuel the car with {fuelAmount} gallons",
                    "the tank needs {fuelAmount} gallons, fill it",
                ),
                heldout=("put {fuelAmount} gallons of fuel into the tank", "fill the car with {fuelAmount} gallons"),
            ),
        ),
        RequestGenerator(
            name="climate",
            draw=_climate,
            topic="climate",
            wordings=Wordings(
                train=(
                    "set the climate to {temperature} {unit}, fan speed {fanSpeed}, mode {mode}",
                    "adjust the climate: {temperature} {unit}, fan {fanSpeed}, mode {mode}",
                    "climate control at {temperature} {unit} with fan speed {fanSpeed} in mode {mode}",
                    "make it {temperature} {unit} in the car, fan at {fanSpeed}, mode {mode}",
                    "put the climate mode to {mode} with fan {fanSpeed} and {temperature} {unit}",
                    "fan speed {fanSpeed}, temperature {temperature} {unit}, climate mode {mode}",
                ),
                heldout=(
                    "adjust the climate control to {temperature} {unit} with fan speed {fanSpeed}, mode {mode}",
                    "set the temperature in the car to {temperature} {unit}, fan at {fanSpeed} in mode {mode}",
                ),
            ),
        ),
        RequestGenerator(
            name="lights",
            draw=_lights,
            topic="lights",
            weight=0.7,
            wordings=Wordings(
                train=(
                    "set the headlights to {mode}",
                    "turn the headlights {mode}",
                    "put the headlights in mode {mode}",
                    "switch the lights to {mode}",
                    "headlights to mode {mode}",
                    "the lights should be {mode}, set the headlights",
                ),
                heldout=("switch the headlights to {mode}", "set the lights to mode {mode}"),
            ),
        ),
        RequestGenerator(
            name="parking",
            draw=_parking,
            topic="parking",
            weight=0.7,
            wordings=Wordings(
                train=(
                    "{mode} the parking brake",
                    "set the parking brake, mode {mode}",
                    "the parking brake should get mode {mode}",
                    "use the parking brake with mode {mode}",
                    "put the parking brake to {mode}",
                    "activate the mode {mode} of the parking brake",
                ),
                heldout=("use the parking brake, mode {mode}", "set the parking brake to {mode}"),
            ),
        ),
        RequestGenerator(
            name="lock",
            draw=_lock,
            topic="engine",
            wordings=Wordings(
                train=(
                    "lock these doors: {door}",
                    "please lock {door}",
                    "make sure that {door} get locked",
                    "lock the car doors {door}",
                    "the doors {door} should be locked",
                    "close and lock {door}",
                ),
                heldout=("make sure the doors {door} get locked", "lock these car doors: {door}"),
            ),
        ),
        RequestGenerator(
            name="unlock",
            draw=_unlock,
            topic="engine",
            wordings=Wordings(
                train=(
                    "unlock these doors: {door}",
                    "please unlock {door}",
                    "make sure that {door} get unlocked",
                    "unlock the car doors {door}",
                    "the doors {door} should be unlocked",
                    "open and unlock {door}",
                ),
                heldout=("make sure the doors {door} get unlocked", "unlock these car doors: {door}"),
            ),
        ),
        RequestGenerator(
            name="pedal",
            draw=_pedal,
            topic="engine",
            weight=0.7,
            wordings=Wordings(
                train=(
                    "press the brake pedal to {pedalPosition}",
                    "push the brake to position {pedalPosition}",
                    "put the brake pedal at {pedalPosition}",
                    "brake with the pedal at {pedalPosition}",
                    "press the brake to position {pedalPosition}",
                    "set the pedal of the brake to {pedalPosition}",
                ),
                heldout=(
                    "push the brake pedal to {pedalPosition}",
                    "put the pedal of the brake at position {pedalPosition}",
                ),
            ),
        ),
        RequestGenerator(
            name="status",
            draw=_status,
            topic="status",
            wordings=Wordings(
                train=(
                    "show the car status for {option}",
                    "display the status of {option}",
                    "check the {option} status of the car",
                    "tell me the car status, option {option}",
                    "what is the status of {option}, show it",
                    "give me the status display for {option}",
                ),
                heldout=("display the car status for {option}", "show me the status of option {option}"),
            ),
        ),
        RequestGenerator(
            name="navigate",
            draw=_navigate,
            topic="navigation",
            wordings=Wordings(
                train=(
                    "navigate to {destination}",
                    "set the navigation to {destination}",
                    "take me to {destination}",
                    "bring up the navigation for {destination}",
                    "I want to drive to {destination}, set the navigation",
                    "route me to {destination}",
                ),
                heldout=("set up the navigation to {destination}", "I want to navigate to {destination}"),
            ),
        ),
        RequestGenerator(
            name="tires",
            draw=_tires,
            topic="tires",
            weight=0.5,
            wordings=Wordings(
                train=(
                    "check the tire pressure",
                    "show me the tire pressure",
                    "how is the pressure of my tires, check it",
                    "check my tires",
                    "get the pressure of the tires",
                    "tell me the tire pressure",
                ),
                heldout=("show me the pressure of my tires", "get the tire pressure"),
            ),
        ),
        RequestGenerator(
            name="tire_shop",
            draw=_tire_shop,
            topic="navigation",
            weight=0.5,
            wordings=Wordings(
                train=(
                    "find the nearest tire shop and navigate there",
                    "navigate to the nearest tire shop",
                    "look for a tire shop and set the navigation to it",
                    "take me to the nearest tire shop",
                    "find a tire shop and bring me there",
                    "set the navigation to the nearest tire shop",
                ),
                heldout=(
                    "find the nearest tire shop and take me there",
                    "look for the nearest tire shop and navigate to it",
                ),
            ),
        ),
        RequestGenerator(
            name="distance",
            draw=_distance,
            topic="distance",
            weight=1.2,
            wordings=Wordings(
                train=(
                    "estimate the distance from {start} to {goal} by their zipcodes",
                    "how far is it from {start} to {goal}, use the zipcodes",
                    "find the zipcodes of {start} and {goal} and estimate the distance",
                    "get the zipcodes of {start} and {goal}, and with them the distance",
                    "with the zipcodes of {start} and {goal}, estimate how far it is",
                    "tell me the distance between {start} and {goal}, look up both zipcodes first",
                ),
                heldout=(
                    "look up the zipcodes of {start} and {goal} and tell me the distance",
                    "estimate how far it is from {start} to {goal} by their zipcodes",
                ),
            ),
        ),
        RequestGenerator(
            name="zipcode",
            draw=_zipcode,
            topic="distance",
            weight=0.5,
            wordings=Wordings(
                train=(
                    "find the zipcode of {city}",
                    "look up the zipcode of the city {city}",
                    "tell me the zipcode for {city}",
                    "what is the zipcode of {city}, find it",
                    "get the zipcode for the city {city}",
                    "give me the zipcode of {city}",
                ),
                heldout=("look up the zipcode for {city}", "find the zipcode of the city {city}"),
            ),
        ),
        RequestGenerator(
            name="feasible",
            draw=_feasible,
            topic="fuel",
            weight=0.7,
            wordings=Wordings(
                train=(
                    "can the car drive {distance} miles, check the mileage",
                    "estimate if we can drive {distance} miles",
                    "check if the fuel is enough for {distance} miles",
                    "tell me if the car can go {distance} miles",
                    "is a drive of {distance} miles possible, estimate it",
                    "check whether {distance} miles are possible by mileage",
                ),
                heldout=(
                    "estimate if the car can go {distance} miles by mileage",
                    "check if a drive of {distance} miles is possible",
                ),
            ),
        ),
    ),
)
